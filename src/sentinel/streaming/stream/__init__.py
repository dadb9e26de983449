"""The stream worker, whatever the log that it reads: places, state, outputs, commits."""
