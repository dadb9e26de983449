"""What the machine has: processors, memory, accelerators."""
