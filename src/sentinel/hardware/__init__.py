"""What the machine has: processors, memory, accelerators."""

from sentinel.hardware.accelerators import Accelerator, AcceleratorProbe, probe_accelerators
from sentinel.hardware.machine import Machine, read_machine
from sentinel.hardware.reading import Reading

__all__ = [
    "Accelerator",
    "AcceleratorProbe",
    "Machine",
    "Reading",
    "probe_accelerators",
    "read_machine",
]
