"""State in the process, kept by a write-ahead log and snapshots in a folder."""

from sentinel.features.stores.embedded.store import Durability, EmbeddedStore

__all__ = ["Durability", "EmbeddedStore"]
