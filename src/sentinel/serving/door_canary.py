"""The canary through the real door: a request of our own, over a real connection.

Every few seconds, on a clock of its own: connect, send known events with the server's own token,
and compare what comes back with what is recorded. The whole way is tried: socket, TLS, token,
route, queue, scoring thread, contract, features (in an engine of their own), champion or fallback,
encoding. Whoever answered must have given *its* recorded answer. What fails is named.

It also writes and syncs a small file where the server must be able to write.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentinel.core.errors import ErrorCode
from sentinel.scoring import Canary
from sentinel.scoring.sanity import differs
from sentinel.serving import bounds

# A prefix of the canary's events has the same features: what comes later cannot change it.
_EVENTS_MAX = 64
_ASKED_AGAIN_MAX = 3
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
    tls : callable
        Gives the context of a client that may come through it now; None: no TLS.
    """

    host: str
    port: int
    token: str
    tls: Callable[[], ssl.SSLContext] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one question found.

    Attributes
    ----------
    cause : str
        Why the process is not ready; empty: it is.
    degraded : tuple of str
        What is not as it should be, and may be so.
    label : str
        Release that answered; empty where none did.
    is_release_wrong : bool
        The cause is what the release answered, or that it fails.
    is_champion_wrong : bool
        The champion gave a wrong answer.
    """

    cause: str
    degraded: tuple[str, ...] = ()
    label: str = ""
    is_release_wrong: bool = False
    is_champion_wrong: bool = False


class DoorCanary:
    """Ask the own door, again and again, in a thread.

    Parameters
    ----------
    door : OwnDoor
    known : callable
        Gives label and canary of the release in service.
    folders : tuple of (str, Path, bool)
        Name, folder, whether serving ends without it.
    tell : callable
        Told what was found.
    every_s : callable
        Seconds until the next question.
    """

    def __init__(
        self,
        door: OwnDoor,
        known: Callable[[], tuple[str, Canary]],
        *,
        folders: tuple[tuple[str, Path, bool], ...],
        tell: Callable[[Finding], None],
        every_s: Callable[[], float],
    ) -> None:
        self._door = door
        self._known = known
        self._folders = folders
        self._tell = tell
        self._every_s = every_s
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="door-canary", daemon=True)
        self.n_failures = 0

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def stop(self) -> None:
        """End within the time of one question."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join(bounds.DOOR_CANARY_WAIT_S * 2)

    def hurry(self) -> None:
        """Ask at once."""
        self._wake.set()

    def check(self) -> Finding:
        """Ask once."""
        causes, degraded = check_folders(self._folders)
        found = self._check_door()
        if found.cause:
            causes.append(found.cause)
        return dataclasses.replace(found, cause="; ".join(causes), degraded=tuple(degraded))

    def _check_door(self) -> Finding:
        for _ in range(_ASKED_AGAIN_MAX):
            label, canary = self._known()
            try:
                status, body, served_by = self._ask(canary)
            except (OSError, http.client.HTTPException) as error:
                return Finding(cause=f"the door did not answer the canary: {type(error).__name__}")
            if not served_by or served_by == label:
                break
            # Another release took over between question and answer: that answer says nothing.
        if status == http.HTTPStatus.OK:
            cause, wrong = compare_canary(canary, body)
            return Finding(
                cause=cause,
                label=label,
                is_release_wrong=bool(cause),
                is_champion_wrong=bool(cause) and "champion" in wrong,
            )
        code = _error_code(body)
        return Finding(
            cause=f"the door answered the canary with {status}: {code}",
            label=label,
            is_release_wrong=code == str(ErrorCode.INTERNAL),
        )

    def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            finding = self.check()
            if finding.cause:
                self.n_failures += 1
            self._tell(finding)
            self._wake.wait(self._every_s())

    def _ask(self, canary: Canary) -> tuple[int, bytes, str]:
        connection = self._connect()
        try:
            headers = {
                "content-type": "application/x-ndjson",
                "authorization": f"Bearer {self._door.token}",
                "sentinel-canary": "1",
                "sentinel-timeout-ms": str(int(bounds.DOOR_CANARY_WAIT_S * 1000)),
                "connection": "close",
            }
            body = b"\n".join(known_events(canary)) + b"\n"
            connection.request("POST", "/v1/score", body=body, headers=headers)
            response = connection.getresponse()
            content = response.read(bounds.REQUEST_BODY_BYTES_MAX)
            return response.status, content, response.headers.get("sentinel-release", "")
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        door = self._door
        wait_s = bounds.DOOR_CANARY_WAIT_S
        if door.tls is None:
            return http.client.HTTPConnection(door.host, door.port, timeout=wait_s)
        return http.client.HTTPSConnection(door.host, door.port, timeout=wait_s, context=door.tls())


def known_events(canary: Canary) -> tuple[bytes, ...]:
    """Return the events that are asked: the first ones, whose features need no others."""
    return canary.events[:_EVENTS_MAX]


def compare_canary(canary: Canary, body: bytes) -> tuple[str, frozenset[str]]:
    """Hold answers against the recorded ones.

    Parameters
    ----------
    canary : Canary
    body : bytes
        One decision a line, for :func:`known_events`.

    Returns
    -------
    cause : str
        The first difference; empty when there is none.
    who : frozenset of str
        Who answered; with a difference, who gave the wrong answer.
    """
    recorded = {"champion": canary.event_scores, "fallback": canary.event_fallback_scores}
    try:
        lines = [json.loads(line) for line in body.splitlines()]
        pairs = [(line["served_by"], line["score"]) for line in lines]
    except (ValueError, KeyError, TypeError):
        return "canary: the answer is not one decision a line", frozenset()
    n_events = len(known_events(canary))
    if len(pairs) != n_events:
        return f"canary: {n_events} events were asked, {len(pairs)} answered", frozenset()
    for number, (who, score) in enumerate(pairs):
        if who not in recorded or score is None:
            return f"canary: event {number} was answered by nobody", frozenset()
        known = recorded[who][number : number + 1]
        if differs(np.array([score], np.float32), known, canary.tolerance).any():
            cause = f"canary: event {number}: recorded {known[0]:.6g}, {who} gave {score:.6g}"
            return cause, frozenset({who})
    return "", frozenset(who for who, _ in pairs)


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
