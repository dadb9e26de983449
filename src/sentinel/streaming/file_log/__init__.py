"""A log of files: partitions and positions without a broker."""
