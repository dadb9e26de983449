"""What every room stands on: errors, limits, hashing, clock, files, configuration."""
