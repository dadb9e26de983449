"""What the software stands on: versions, and their digest."""

from sentinel.environment.fingerprint import Environment, read_environment

__all__ = ["Environment", "read_environment"]
