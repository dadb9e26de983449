"""Event sources: event files, readers of published data sets, and the simulator.

The data sets and the simulator are in modules of their own: ``sentinel.data.handbook``,
``sentinel.data.purchasing_cards``, ``sentinel.data.simulator``.
"""

from sentinel.data.event_file import EventFile, ReadProgress
from sentinel.data.event_folder import EventFolder, read_scenarios

__all__ = ["EventFile", "EventFolder", "ReadProgress", "read_scenarios"]
