"""Event sources: event files, readers of published data sets, and the simulator."""

from sentinel.data.event_file import EventFile, ReadProgress

__all__ = ["EventFile", "ReadProgress"]
