"""The canary through the real door: a request of our own, over a real connection.

Every few seconds, on a clock of its own: connect, send known events with the server's own token,
and compare what comes back with what is recorded. The whole way is tried: socket, TLS, token,
route, queue, scoring thread, contract, features (in an engine of their own), champion or fallback,
encoding. Whoever answered must have given *its* recorded answer. What fails is named.

It also writes and syncs a small file where the server must be able to write.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentinel.core import limits
from sentinel.scoring import Canary
from sentinel.scoring.sanity import differs

# A prefix of the canary's events has the same features: what comes later cannot change it.
_EVENTS_MAX = 64
_PROBE_NAME = ".sentinel-probe"
_PROBE_BYTES = bytes(4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDoor:
    """How the server reaches itself.

    Attributes
    ----------
    host : str
    port : int
    token : str
    certificate : Path or None
        What the door must show; None: no TLS.
    """

    host: str
    port: int
    token: str
    certificate: Path | None


class DoorCanary:
    """Ask the own door, again and again, in a thread.

    Parameters
    ----------
    door : OwnDoor
    canary : Canary
    folders : tuple of (str, Path, bool)
        Name, folder, whether serving ends without it.
    tell : callable
        Told the cause of not being ready (empty: ready), and what is degraded.
    on_wrong : callable
        Called when the champion gave a wrong answer.
    every_s : float
    """

    def __init__(
        self,
        door: OwnDoor,
        canary: Canary,
        *,
        folders: tuple[tuple[str, Path, bool], ...],
        tell: Callable[[str, tuple[str, ...]], None],
        on_wrong: Callable[[], None],
        every_s: float,
    ) -> None:
        self._door = door
        self._canary = canary
        self._folders = folders
        self._tell = tell
        self._on_wrong = on_wrong
        self._every_s = every_s
        self._stop = threading.Event()
        self._body = b"\n".join(canary.events[:_EVENTS_MAX]) + b"\n"
        self._thread = threading.Thread(target=self._run, name="door-canary", daemon=True)
        self.n_failures = 0

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def stop(self) -> None:
        """End within the time of one question."""
        self._stop.set()
        self._thread.join(limits.DOOR_CANARY_WAIT_S * 2)

    def check(self) -> tuple[str, tuple[str, ...]]:
        """Ask once; return why the process is not ready (empty: it is), and what is degraded."""
        causes, degraded = check_folders(self._folders)
        try:
            status, body = self._ask()
        except (OSError, http.client.HTTPException) as error:
            causes.append(f"the door did not answer the canary: {type(error).__name__}")
        else:
            if status == http.HTTPStatus.OK:
                cause = self._compare(body)
            else:
                cause = f"the door answered the canary with {status}: {_error_code(body)}"
            if cause:
                causes.append(cause)
        return "; ".join(causes), tuple(degraded)

    def _run(self) -> None:
        while not self._stop.is_set():
            cause, degraded = self.check()
            if cause:
                self.n_failures += 1
            self._tell(cause, degraded)
            self._stop.wait(self._every_s)

    def _ask(self) -> tuple[int, bytes]:
        connection = self._connect()
        try:
            headers = {
                "content-type": "application/x-ndjson",
                "authorization": f"Bearer {self._door.token}",
                "sentinel-canary": "1",
                "sentinel-timeout-ms": str(int(limits.DOOR_CANARY_WAIT_S * 1000)),
                "connection": "close",
            }
            connection.request("POST", "/v1/score", body=self._body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(limits.REQUEST_BODY_BYTES_MAX)
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        door = self._door
        wait_s = limits.DOOR_CANARY_WAIT_S
        if door.certificate is None:
            return http.client.HTTPConnection(door.host, door.port, timeout=wait_s)
        context = ssl.create_default_context(cafile=str(door.certificate))
        context.check_hostname = False  # we ask for the certificate itself, by an address
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        return http.client.HTTPSConnection(door.host, door.port, timeout=wait_s, context=context)

    def _compare(self, body: bytes) -> str:
        """Hold the answers against the recorded ones."""
        canary = self._canary
        recorded = {
            "champion": canary.event_scores,
            "fallback": canary.event_fallback_scores,
        }
        try:
            lines = [json.loads(line) for line in body.splitlines()]
            pairs = [(line["served_by"], line["score"]) for line in lines]
        except (ValueError, KeyError, TypeError):
            return "canary: the answer is not one decision a line"
        n_events = min(len(canary.events), _EVENTS_MAX)
        if len(pairs) != n_events:
            return f"canary: {n_events} events were asked, {len(pairs)} answered"
        for number, (who, score) in enumerate(pairs):
            if who not in recorded or score is None:
                return f"canary: event {number} was answered by nobody"
            known = recorded[who][number : number + 1]
            if differs(np.array([score], np.float32), known, canary.tolerance).any():
                if who == "champion":
                    self._on_wrong()
                return f"canary: event {number}: recorded {known[0]:.6g}, {who} gave {score:.6g}"
        return ""


def check_folders(folders: tuple[tuple[str, Path, bool], ...]) -> tuple[list[str], list[str]]:
    """Write where the server writes; return what must not fail and did, and what may and did."""
    needed: list[str] = []
    degraded: list[str] = []
    for name, folder, is_needed in folders:
        fault = _write_probe(folder)
        if fault:
            (needed if is_needed else degraded).append(f"{name}: {fault}")
    return needed, degraded


def _write_probe(folder: Path) -> str:
    path = folder / _PROBE_NAME
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, _PROBE_BYTES)
            os.fsync(handle)
        finally:
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _error_code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return "no reason"
