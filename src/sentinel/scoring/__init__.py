"""From a batch of raw events to a batch of decisions, guarded."""
