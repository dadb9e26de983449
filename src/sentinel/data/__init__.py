"""Event sources: readers of published data sets, and the simulator."""
