"""A public kit for tests: a clock that is set by hand, sample events, disks that fail, waiting."""

from sentinel.testing.full_disk import can_mount, file_size_limit, small_disk
from sentinel.testing.manual_clock import ManualClock
from sentinel.testing.samples import sample_events, sample_feedback, sample_simulation
from sentinel.testing.waiting import wait_until

__all__ = [
    "ManualClock",
    "can_mount",
    "file_size_limit",
    "sample_events",
    "sample_feedback",
    "sample_simulation",
    "small_disk",
    "wait_until",
]
