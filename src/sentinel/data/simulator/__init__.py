"""A simulated card world, deterministic by seed, for those who have no data set."""

from sentinel.data.simulator.columns import FRAUD_KINDS
from sentinel.data.simulator.contracts import Transaction, Verdict
from sentinel.data.simulator.simulation import SimulatedHour, Simulation

__all__ = ["FRAUD_KINDS", "SimulatedHour", "Simulation", "Transaction", "Verdict"]
