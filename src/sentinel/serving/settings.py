"""What one server is told: where it listens, who may ask, where it keeps things."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.choice import IN_MEMORY, StoreChoice
from sentinel.serving import bounds


class ExplainMode(enum.StrEnum):
    """Which decisions are explained by themselves."""

    FLAGGED = "flagged"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one server.

    Attributes
    ----------
    host : str
        Address to listen at.
    http_port, grpc_port, metrics_port : int
        0 takes any free one.
    tokens : Path or None
        Token file; None: nobody needs a token.
    insecure_bind : bool
        Listen beyond loopback without tokens.
    certificate, private_key : Path or None
        PEM files; both or neither.
    client_ca : Path or None
        PEM file of the CA whose clients may come (mutual TLS); None: clients need no certificate.
    timeout_ms : int
        Deadline of a request that names none.
    quarantine : Path
    store : StoreChoice
        Where feature state is kept; in memory it is lost with the process.
    log : Path or None
        Folder of the decision log; None: no log.
    is_rehearsal : bool
        Take events of the past: event times are not held against the clock, and health says so.
    explain : ExplainMode
        Which decisions are explained by themselves: ``flagged`` (declined and reviewed), ``all``,
        ``none``: then nobody may ask either.
    explainer_nice : int
        Steps that the priority of explanations is below that of decisions, 0 to 19.
    drain_notice_s : float
        How long readiness is false before the door closes.
    canary_s : float
        How often the canary goes through the door.
    n_fronts : int
        Processes that hold the doors; 0: the one that scores holds them.
    run : Path
        Of a server of several processes: their socket, and why the last of each ended.

    Raises
    ------
    SentinelError
        ``bind-refused``, ``configuration-invalid``.
    """

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081
    metrics_port: int = 8082
    tokens: Path | None = None
    insecure_bind: bool = False
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    timeout_ms: int = limits.REQUEST_TIMEOUT_MS_DEFAULT
    quarantine: Path = Path("quarantine")
    store: StoreChoice = IN_MEMORY
    log: Path | None = None
    is_rehearsal: bool = False
    explain: ExplainMode = ExplainMode.NONE
    explainer_nice: int = limits.EXPLAINER_NICE
    drain_notice_s: float = limits.DRAIN_NOTICE_S
    canary_s: float = bounds.DOOR_CANARY_S
    n_fronts: int = 0
    run: Path = Path("run")

    def __post_init__(self) -> None:
        """Refuse a door that is open to everybody by mistake."""
        if (self.certificate is None) != (self.private_key is None):
            raise SentinelError(
                ErrorCode.CONFIGURATION_INVALID,
                at="tls",
                expected="certificate and key, or neither",
                got="one of them",
            )
        if self.client_ca is not None and self.certificate is None:
            raise SentinelError(
                ErrorCode.CONFIGURATION_INVALID,
                at="tls",
                expected="a certificate of the server beside the CA of its clients",
                got="none",
            )
        if self.tokens is None and not self.insecure_bind and not is_loopback(self.host):
            raise SentinelError(
                ErrorCode.BIND_REFUSED,
                at=self.host,
                expected="a loopback address, or tokens",
                got="an address that others can reach, and no tokens",
                hint="Name a token file with --tokens, or say --insecure-bind.",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
