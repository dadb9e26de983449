"""Workers that carry events from a source through the scorer."""
