"""A simulated card world, deterministic by seed, for those who have no data set."""

from sentinel.data.simulator.contracts import Transaction, Verdict

__all__ = ["Transaction", "Verdict"]
