"""Releases that come and go while the server runs: staged, switched, taken back, compared."""
