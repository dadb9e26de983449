"""The one error type of the house, and the closed list of its codes.

An error carries data; its sentence is derived: ``code: at: expected E, got G. Hint.``
What came from outside is shortened and stripped of control characters before it is shown.
"""

from __future__ import annotations

import enum

from sentinel.core import limits
from sentinel.core.library_errors import in_words


class ErrorCode(enum.StrEnum):
    """Every way a call can fail, one line each in ``docs/errors.md``.

    Reasons for refusing an *event* are not errors; they are
    :class:`sentinel.contract.codes.RefusalCode`.
    """

    # core
    FILE_MISSING = "file-missing"
    FILE_UNREADABLE = "file-unreadable"
    FILE_EXPOSED = "file-exposed"
    FILE_UNWRITABLE = "file-unwritable"
    PATH_OUTSIDE = "path-outside"
    CONFIGURATION_UNKNOWN_KEY = "configuration-unknown-key"
    CONFIGURATION_INVALID = "configuration-invalid"
    EXTRA_MISSING = "extra-missing"
    THREADS_MISSING = "threads-missing"
    # contract
    CONTRACT_INVALID = "contract-invalid"
    QUARANTINE_UNWRITABLE = "quarantine-unwritable"
    QUARANTINE_DAMAGED = "quarantine-damaged"
    # data
    EVENT_FILE_DAMAGED = "event-file-damaged"
    EVENT_FILE_CHANGED = "event-file-changed"
    EVENT_FILE_POSITION = "event-file-position"
    DATASET_MISSING = "dataset-missing"
    DATASET_DAMAGED = "dataset-damaged"
    DATASET_COLUMNS = "dataset-columns"
    DATASET_VALUE = "dataset-value"
    SIMULATION_INVALID = "simulation-invalid"
    # features
    FEATURE_INVALID = "feature-invalid"
    FEATURE_UNKNOWN_FIELD = "feature-unknown-field"
    FEATURE_WRONG_KIND = "feature-wrong-kind"
    FEATURE_READS_LABEL = "feature-reads-label"
    FEATURE_DUPLICATE = "feature-duplicate"
    FEATURE_CYCLE = "feature-cycle"
    FEATURE_UNFITTED = "feature-unfitted"
    FEATURE_BATCH_MISMATCH = "feature-batch-mismatch"
    ENTITIES_TOO_MANY = "entities-too-many"
    FEEDBACK_TOO_MUCH = "feedback-too-much"
    STATE_CORRUPT = "state-corrupt"
    STATE_FORMAT = "state-format"
    STATE_OF_ANOTHER_FEATURE_SET = "state-of-another-feature-set"
    STATE_GAP = "state-gap"
    STATE_RECORD_TOO_LARGE = "state-record-too-large"
    STATE_UNWRITABLE = "state-unwritable"
    STATE_LOCKED = "state-locked"
    SOURCE_GAP = "source-gap"
    STATE_MISSING = "state-missing"
    STORE_ADDRESS_INVALID = "store-address-invalid"
    STORE_UNFIT = "store-unfit"
    STORE_DENIED = "store-denied"
    STORE_REFUSED = "store-refused"
    STORE_UNREACHABLE = "store-unreachable"
    STORE_CONTENDED = "store-contended"
    ENTITY_KEYS_INVALID = "entity-keys-invalid"
    REPLAY_PROCESS_ENDED = "replay-process-ended"
    # hardware, environment
    # monitoring
    DECISION_LOG_BUSY = "decision-log-busy"
    DECISION_LOG_BLOCKED = "decision-log-blocked"
    DECISION_LOG_DAMAGED = "decision-log-damaged"
    REFERENCE_INVALID = "reference-invalid"
    # scoring
    POLICY_INVALID = "policy-invalid"
    FALLBACK_INVALID = "fallback-invalid"
    MODEL_INVALID = "model-invalid"
    MODEL_FAILED = "model-failed"
    CANARY_INVALID = "canary-invalid"
    BREAKER_REFUSED = "breaker-refused"
    EXPLANATION_INVALID = "explanation-invalid"
    SCORER_CLOSED = "scorer-closed"
    # release
    PIPELINE_INVALID = "pipeline-invalid"
    RELEASE_MODEL_INVALID = "release-model-invalid"
    RELEASE_NOT_ADMITTED = "release-not-admitted"
    RELEASE_EXISTS = "release-exists"
    RELEASE_MISSING = "release-missing"
    RELEASE_STRUCTURE = "release-structure"
    RELEASE_CORRUPT = "release-corrupt"
    RELEASE_FORMAT_UNKNOWN = "release-format-unknown"
    RELEASE_SIGNATURE_INVALID = "release-signature-invalid"
    RELEASE_NOT_APPROVED = "release-not-approved"
    RELEASE_GATE_FAILED = "release-gate-failed"
    TRUST_INVALID = "trust-invalid"
    KEY_INVALID = "key-invalid"
    # training
    TRAINING_SETTINGS_INVALID = "training-settings-invalid"
    TRAINING_SPLIT_INVALID = "training-split-invalid"
    TRAINING_SPLIT_EMPTY = "training-split-empty"
    TRAINING_ONE_CLASS = "training-one-class"
    TRAINING_NOT_FINITE = "training-not-finite"
    # streaming
    SOURCE_EMPTY = "source-empty"
    CHECKPOINT_MISMATCH = "checkpoint-mismatch"
    CONSERVATION_BROKEN = "conservation-broken"
    STATE_NOT_FRESH = "state-not-fresh"
    SOURCE_BEHIND_STATE = "source-behind-state"
    STREAM_SETTING_INVALID = "stream-setting-invalid"
    STREAM_TOPIC_MISSING = "stream-topic-missing"
    STREAM_PARTITION_KEY = "stream-partition-key"
    STREAM_FAILED = "stream-failed"
    # serving
    REQUEST_INVALID = "request-invalid"
    REQUEST_TOO_LARGE = "request-too-large"
    REQUEST_TOO_SLOW = "request-too-slow"
    ROUTE_UNKNOWN = "route-unknown"
    METHOD_UNSUPPORTED = "method-unsupported"
    CONTENT_UNSUPPORTED = "content-unsupported"
    CALLER_UNKNOWN = "caller-unknown"
    SCOPE_MISSING = "scope-missing"
    TENSOR_INVALID = "tensor-invalid"
    MODEL_UNKNOWN = "model-unknown"
    DECISION_UNKNOWN = "decision-unknown"
    EXPLANATION_UNAVAILABLE = "explanation-unavailable"
    EVENT_REFUSED = "event-refused"
    EVENT_REPEATED = "event-repeated"
    ANSWER_HELD = "answer-held"
    OVERLOADED = "overloaded"
    DEADLINE_PASSED = "deadline-passed"
    DRAINING = "draining"
    SERVER_FULL = "server-full"
    SERVER_UNREADY = "server-unready"
    STAGE_REFUSED = "stage-refused"
    SWITCH_REFUSED = "switch-refused"
    PEER_REFUSED = "peer-refused"
    SERVER_UNREACHABLE = "server-unreachable"
    TOKENS_INVALID = "tokens-invalid"
    BIND_REFUSED = "bind-refused"
    ADDRESS_UNUSABLE = "address-unusable"
    # cli
    USAGE_INVALID = "usage-invalid"
    OUTPUT_EXISTS = "output-exists"
    CANDIDATE_INVALID = "candidate-invalid"
    IO_FAILED = "io-failed"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    INTERNAL = "internal"


class SentinelError(Exception):
    """The root of every error that Sentinel raises on purpose.

    Parameters
    ----------
    code : ErrorCode
        Which way it failed.
    at : str
        Where: a path, a field, a flag.
    expected : str
        What would have been right.
    got : object
        What came, or what a library said of it; shown shortened.
    hint : str, optional
        What the reader can do, as a sentence.

    Examples
    --------
    >>> str(SentinelError(ErrorCode.FILE_MISSING, at="a.json", expected="a file", got="nothing"))
    'file-missing: a.json: expected a file, got nothing.'
    """

    def __init__(
        self, code: ErrorCode, *, at: str, expected: str, got: object, hint: str = ""
    ) -> None:
        self.code = code
        self.at = shorten(at, n_characters_max=limits.ERROR_PLACE_CHARACTERS_MAX)
        self.expected = expected
        # What a library says of a fault is a sentence of its own.
        if isinstance(got, Exception) and not isinstance(got, SentinelError):
            got = in_words(got)
        self.got = shorten(str(got))
        self.hint = hint
        sentence = f"{code}: {self.at}: expected {expected}, got {self.got}."
        super().__init__(f"{sentence} {hint}" if hint else sentence)


def shorten(text: str, *, n_characters_max: int = limits.ERROR_VALUE_CHARACTERS_MAX) -> str:
    r"""Make outside text safe to show: one line, printable, bounded.

    Parameters
    ----------
    text : str
        Anything, hostile or not.
    n_characters_max : int
        Longest result before the ellipsis.

    Returns
    -------
    str
        The text with every non-printable character escaped, cut with ``…`` where too long.

    Examples
    --------
    >>> shorten("a\nb")
    'a\\nb'
    """
    head = text[: n_characters_max + 1]
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in head
    )
    if len(shown) <= n_characters_max and len(head) == len(text):
        return shown
    return shown[:n_characters_max] + "…"


def without_password(address: str) -> str:
    """Hide who one is at an address.

    Examples
    --------
    >>> without_password("redis://scorer:secret@cache:6379/0")
    'redis://…@cache:6379/0'
    """
    head, at, place = address.rpartition("@")
    if not at or not head:
        return address
    scheme, slashes, _ = head.partition("//")
    return f"{scheme}{slashes}…@{place}" if slashes else f"…@{place}"
