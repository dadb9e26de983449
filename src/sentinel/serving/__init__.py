"""Servers: one plane behind doors of HTTP and gRPC, batched across callers, never lying."""

from __future__ import annotations

from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.server import Addresses, serve
from sentinel.serving.settings import ServerSettings

__all__ = ["Addresses", "ReleaseSource", "ServerSettings", "serve"]
