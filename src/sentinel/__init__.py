"""Sentinel: from an event stream to a decision people can trust."""

import os

# ONNX Runtime collects telemetry, kept under HOME, unless this stands before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
