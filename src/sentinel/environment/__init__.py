"""What the software stands on: versions, and their digest."""
