"""A public kit for tests: a clock that is set by hand, sample events."""
