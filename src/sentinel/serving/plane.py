"""The plane: what can be asked of a served release, in plain typed methods.

Two doors lead here, and only translate. No word of HTTP or gRPC stands in this file. Scoring is
asynchronous by a reply that is called once, in the thread of the door; everything else answers at
once from what is in memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

import sentinel
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.metrics import Metrics
from sentinel.release import LoadedRelease, Standing
from sentinel.scoring import Canary
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.batching.batcher import Batcher, BatcherState
from sentinel.serving.batching.decision_memory import DecisionMemory
from sentinel.serving.batching.work import Kind, Reply, Work
from sentinel.serving.door_plane import Told
from sentinel.serving.doors.openapi import openapi_document
from sentinel.serving.explanations.explanations import Explanations
from sentinel.serving.explanations.tensors import explain_tensors
from sentinel.serving.health import Health, HealthReport
from sentinel.serving.releases.working_release import WorkingRelease
from sentinel.serving.settings import ExplainMode

SERVER = "sentinel"
EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnxruntime_onnx"
INPUT_NAME, OUTPUT_NAMES = "features", ("score", "outcome", "served_by", "reason")
_OUTPUT_TYPES = ("FP32", "BYTES", "BYTES", "BYTES")


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One tensor of the model: -1 in a shape is any number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The model as the Open Inference Protocol describes it."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class Limit(NamedTuple):
    """How long a caller waits, and whose rows these are.

    Attributes
    ----------
    tenant : str
        Fairness is between tenants.
    timeout_s : float
        Seconds from then; 0 or less is refused.
    at_s : float
        When the request was whole, on the monotonic clock.
    """

    tenant: str
    timeout_s: float
    at_s: float

    @classmethod
    def from_now(cls, tenant: str, timeout_s: float) -> Limit:
        """Begin now."""
        return cls(tenant, timeout_s, time.monotonic())


class Described(Protocol):
    """What can be said of a release that is known by its name, version and width."""

    @property
    def model_name(self) -> str:
        """Name of the release."""

    @property
    def model_version(self) -> str:
        """Version of the release."""

    @property
    def n_features(self) -> int:
        """Columns of the model."""

    def require_model(self, name: str, version: str | None) -> None:
        """Refuse a model that is not the one served.

        Raises
        ------
        SentinelError
            ``model-unknown``.
        """
        if name != self.model_name or version not in {None, "", self.model_version}:
            raise SentinelError(
                ErrorCode.MODEL_UNKNOWN,
                at="model",
                expected="the model that is served",
                got="another name" if name != self.model_name else "another version",
            )

    def model_metadata(self) -> ModelMetadata:
        """Describe the model."""
        outputs = zip(OUTPUT_NAMES, _OUTPUT_TYPES, strict=True)
        return ModelMetadata(
            name=self.model_name,
            versions=(self.model_version,),
            platform=PLATFORM,
            inputs=(TensorMetadata(INPUT_NAME, "FP32", (-1, self.n_features)),),
            outputs=tuple(TensorMetadata(name, datatype, (-1,)) for name, datatype in outputs),
        )

    def server_metadata(self) -> dict[str, object]:
        """Describe the server."""
        return {
            "name": SERVER,
            "version": sentinel.__version__,
            "extensions": list(EXTENSIONS),
        }


class Plane(Described):
    """One served release.

    Parameters
    ----------
    release : WorkingRelease
        In service at first.
    batcher : Batcher
    memory : DecisionMemory
    health : Health
    metrics : Metrics
    explanations : Explanations, optional
        None: there are none.

    Attributes
    ----------
    current : WorkingRelease
        In service; changed in the thread of the door (:mod:`sentinel.serving.releases.swap`).
    """

    def __init__(
        self,
        release: WorkingRelease,
        batcher: Batcher,
        *,
        memory: DecisionMemory,
        health: Health,
        metrics: Metrics,
        explanations: Explanations | None = None,
    ) -> None:
        self.current = release
        self.explanations = (
            explanations if explanations is not None else Explanations(ExplainMode.NONE)
        )
        self.batcher = batcher
        self.health_state = health
        self.metrics = metrics
        self._memory = memory
        self._on_change: list[Callable[[], None]] = []
        self._causes: tuple[str, ...] = ()
        self._callers: tuple[str, ...] = ()

    # --- scoring -----------------------------------------------------------------------------

    def score(self, events: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Decide events; the reply gets :class:`EventAnswers` or an error.

        Parameters
        ----------
        events : sequence of bytes
            1 to ``REQUEST_ROWS_MAX`` events as they came.
        limit : Limit
        reply : callable

        Raises
        ------
        SentinelError
            ``request-invalid``, ``request-too-large``, ``overloaded``, ``deadline-passed``,
            ``draining``, ``scorer-closed``: then the reply is never called.
        """
        check_rows(len(events))
        return self._submit(Kind.EVENTS, len(events), limit, reply, events=events)

    def infer(self, values: npt.NDArray[np.float32], limit: Limit, reply: Reply) -> Work:
        """Score rows of features; the reply gets :class:`TensorAnswers` or an error.

        Parameters
        ----------
        values : ndarray of float32, shape (n_rows, n_features), C order
            Finite.

        Raises
        ------
        SentinelError
            As :meth:`score`.
        """
        n_rows = len(values)
        if n_rows != 1:
            check_rows(n_rows)
        tenant, timeout_s, at_s = limit
        work = Work(
            Kind.TENSOR, n_rows, tenant, at_s + timeout_s, reply, (), values, self.current, at_s
        )
        self.batcher.submit(work)
        return work

    def score_canary(
        self,
        events: Sequence[bytes],
        limit: Limit,
        reply: Reply,
        *,
        release: WorkingRelease | None = None,
    ) -> Work:
        """Take known events the whole way beside the live state; as :meth:`score`.

        Parameters
        ----------
        release : WorkingRelease, optional
            Another one than that in service.
        """
        check_rows(len(events))
        asked = release or self.current
        return self._submit(Kind.CANARY, len(events), limit, reply, events=events, release=asked)

    def learn(self, feedback: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Learn feedback events (labels that came late); as :meth:`score`.

        Each line of the reply is ``{"learned":true}`` or the refusal of that line.

        Raises
        ------
        SentinelError
            ``request-invalid`` too when the release's feature set declares no feedback.
        """
        check_rows(len(feedback))
        if self.loaded.parts.plan.features.feedback is None:
            raise feedback_unread(len(feedback))
        return self._submit(Kind.FEEDBACK, len(feedback), limit, reply, events=feedback)

    def explain(
        self,
        values: npt.NDArray[np.float32],
        limit: Limit,
        told: Told,
        *,
        request_id: str | None,
    ) -> Work:
        """Score rows of features, and tell why, as JSON; one time for both.

        Raises
        ------
        SentinelError
            As :meth:`infer`, ``explanation-unavailable``.
        """
        return explain_tensors(self, values, limit, request_id=request_id, told=told)

    def abandon(self, work: Work) -> None:
        """Forget a request whose caller went away."""
        self.batcher.abandon(work)

    def decision(self, event_id: str) -> bytes:
        """Return the decision of an event, as it was sent.

        Raises
        ------
        SentinelError
            ``decision-unknown``.
        """
        line = self._memory.get(event_id.encode())
        if line is None:
            raise SentinelError(
                ErrorCode.DECISION_UNKNOWN,
                at="decision",
                expected=f"one of the last {limits.DECISIONS_REMEMBERED_MAX} event ids",
                got=event_id,
            )
        return line

    def explanation(self, event_id: str) -> bytes | None:
        """Return why the decision of an event is what it is, as JSON; None: it is on its way.

        Raises
        ------
        SentinelError
            ``decision-unknown``, ``explanation-unavailable``, ``overloaded``.
        """
        self.decision(event_id)
        return self.explanations.find(event_id.encode())

    def find_decision(self, event_id: str, told: Told) -> None:
        """Tell :meth:`decision`."""
        told(attempt(lambda: self.decision(event_id), at="decision"))

    def find_explanation(self, event_id: str, told: Told) -> None:
        """Tell :meth:`explanation`."""
        told(attempt(lambda: self.explanation(event_id), at="explanation"))

    def find_release(self, told: Told) -> None:
        """Tell :meth:`release`, as JSON."""
        told(attempt(lambda: json.dumps(self.release(), allow_nan=False).encode(), at="release"))

    # --- what is served ----------------------------------------------------------------------

    @property
    def loaded(self) -> LoadedRelease:
        """The release in service."""
        return self.current.loaded

    @property
    def n_features(self) -> int:
        """Columns of the model."""
        return self.current.n_features

    @property
    def model_name(self) -> str:
        """Name of the release."""
        return self.loaded.manifest.name

    @property
    def model_version(self) -> str:
        """Version of the release."""
        return self.loaded.manifest.version

    @property
    def canary(self) -> Canary:
        """Known events with their answers."""
        return self.loaded.parts.canary

    def put_in_service(self, release: WorkingRelease) -> None:
        """Say from now on that this release serves; in the thread of the door."""
        self.current = release
        for callback in self._on_change:
            callback()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this in the thread of the door when another release is in service."""
        self._on_change.append(callback)

    def document(self) -> bytes:
        """Return the OpenAPI document of the release."""
        return json.dumps(openapi_document(self), allow_nan=False).encode()

    def release(self) -> dict[str, object]:
        """Say what runs, how it stands, and how it is."""
        manifest, parts = self.loaded.manifest, self.loaded.parts
        status = self.current.scorer.status()
        return {
            "name": manifest.name,
            "version": manifest.version,
            "digest": self.loaded.digest,
            "standing": str(self.loaded.standing),
            "is_approved": self.loaded.standing is Standing.APPROVED,
            "contract": {
                "name": self.loaded.events.name,
                "version": self.loaded.events.version,
                "schema_hash": self.loaded.events.schema_hash,
            },
            "features": list(parts.plan.names),
            "execution_provider": status.execution_provider,
            "breaker": str(status.breaker),
            "breaker_cause": status.breaker_cause,
            "health": self.health().to_data(names_callers=False),
        }

    # --- how it is ---------------------------------------------------------------------------

    def health(self) -> HealthReport:
        """Return live, started, ready, degraded, with causes."""
        report = self.health_state.report(self.batcher.vital(), self._causes)
        return report.with_callers(self._callers)

    def load(self) -> BatcherState:
        """Return what waits and what is being done."""
        return self.batcher.state()

    def look(self, further: tuple[str, ...] = ()) -> None:
        """Look at what may be degraded; the canary's clock calls it, not a probe."""
        status = self.current.scorer.status()
        causes = status.causes + further + self.explanations.causes()
        if self.loaded.standing is not Standing.APPROVED:
            causes = (f"the release is {self.loaded.standing}", *causes)
        self._causes, self._callers = causes, status.degraded_callers

    # --- private -----------------------------------------------------------------------------

    def _submit(
        self,
        kind: Kind,
        n_rows: int,
        limit: Limit,
        reply: Reply,
        *,
        events: Sequence[bytes],
        release: WorkingRelease | None = None,
    ) -> Work:
        tenant, timeout_s, at_s = limit
        work = Work(kind, n_rows, tenant, at_s + timeout_s, reply, events, None, release, at_s)
        self.batcher.submit(work)
        return work


def feedback_unread(n_events: int) -> SentinelError:
    """Say that a release's features read no feedback."""
    return SentinelError(
        ErrorCode.REQUEST_INVALID,
        at="feedback",
        expected="none: this release's features read no feedback",
        got=f"{n_events} events",
    )


def check_rows(n_rows: int) -> None:
    """Refuse no rows, and more than a request may have.

    Raises
    ------
    SentinelError
        ``request-invalid``, ``request-too-large``.
    """
    if n_rows < 1:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID, at="request", expected="at least one row", got="none"
        )
    if n_rows > bounds.REQUEST_ROWS_MAX:
        raise SentinelError(
            ErrorCode.REQUEST_TOO_LARGE,
            at="request",
            expected=f"at most {bounds.REQUEST_ROWS_MAX} rows",
            got=n_rows,
        )
