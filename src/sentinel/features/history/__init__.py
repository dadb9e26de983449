"""Replay of histories that outgrow one core: cut by entity, over processes or Spark."""
