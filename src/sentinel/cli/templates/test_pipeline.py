"""Of $name."""
