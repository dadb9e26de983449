"""The immutable, code-free folder that runs: build, gates, approvals, verification."""
