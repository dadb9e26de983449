"""Sentinel: from an event stream to a decision people can trust."""

__version__ = "0.1.0"
