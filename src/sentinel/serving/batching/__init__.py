"""From requests of many callers to one batch, and back to who asked."""
