"""Metrics, drift, logs, the decision log, latency attribution."""
