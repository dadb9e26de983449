"""Feature definitions, the tile kernel, the engine that reads and advances them, replay."""
