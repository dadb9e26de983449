"""What a user writes: contract, feature set, label and policy in one Python object."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from sentinel.contract import Field, FieldKind
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_hex
from sentinel.features.durations import parse_ms
from sentinel.features.feature_set import FeatureSet
from sentinel.release.manifest import check_release_name
from sentinel.scoring.policy import Policy

# What a mistake in a user's file raises; anything else is not a mistake in the file.
_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    SystemExit,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the model learns: a boolean field of the feedback contract, known late.

    Parameters
    ----------
    of : Field
        The boolean field of the feedback contract that says what was true.
    event : Field
        The field of the feedback contract that holds the id of the event it speaks of.
    delay : str
        How long after an event its label counts as known: ``"7d"``, ``"12h"``. Training leaves
        this much between its parts.
    unlabelled : str
        What an event without a verdict is once the delay has passed. ``"excluded"``: it trains
        and judges nothing. ``"genuine"``: it counts as genuine, which assumes a feed that only
        speaks of frauds.
    """

    of: Field
    event: Field
    delay: str
    unlabelled: Literal["excluded", "genuine"] = "excluded"

    @property
    def delay_ms(self) -> int:
        """The delay in milliseconds."""
        return parse_ms(self.delay, at="label.delay")

    def __post_init__(self) -> None:
        """Refuse what is no field and what is no length of time."""
        for name, field in (("of", self.of), ("event", self.event)):
            if not isinstance(field, Field):
                raise _invalid(f"label.{name}", "a field of the feedback contract", field)
        if self.unlabelled not in {"excluded", "genuine"}:
            raise _invalid("label.unlabelled", "excluded or genuine", self.unlabelled)
        try:
            parse_ms(self.delay, at="label.delay")
        except SentinelError as error:
            raise _invalid("label.delay", error.expected, error.got) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """All that is declared about one model; training makes a candidate of it.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, dots and hyphens; names the releases made of it.
    version : str
        Version of the releases made of it, as ``2.5.0``.
    features : FeatureSet
        With the event contract, and the feedback contract that the label lives in.
    label : Label
    policy : Policy
        Thresholds, sanity rules, breaker numbers.
    model : mapping of str to number
        Settings of the champion's training (``docs/training.md``); training checks them.

    Raises
    ------
    SentinelError
        ``pipeline-invalid`` at the field that is wrong.
    """

    name: str
    features: FeatureSet
    label: Label
    policy: Policy
    version: str = "1.0.0"
    model: Mapping[str, int | float | bool] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        _check(self)

    @classmethod
    def load(cls, path: Path | str) -> Pipeline:
        """Run a user's own Python file and return the one pipeline that it defines.

        This is the user's code, run at training only; nothing of a release is ever run.

        Raises
        ------
        SentinelError
            ``file-missing``; ``pipeline-invalid`` when the file raises, or defines none or two.
        """
        return _load(Path(path))


def _check(pipeline: Pipeline) -> None:
    try:
        check_release_name(pipeline.name, pipeline.version)
    except SentinelError as error:
        raise _invalid(f"pipeline.{error.at}", error.expected, error.got) from error
    kinds = {"features": FeatureSet, "label": Label, "policy": Policy}
    for name, kind in kinds.items():
        value = getattr(pipeline, name)
        if not isinstance(value, kind):
            raise _invalid(f"pipeline.{name}", f"a {kind.__name__}", type(value).__name__)
    feedback, event_id = pipeline.features.feedback, pipeline.features.events.event_id
    if feedback is None:
        raise _invalid("pipeline.features.feedback", "the contract of the label", "none")
    label = pipeline.label
    for name, field in (("of", label.of), ("event", label.event)):
        if field not in feedback.fields:
            raise _invalid(f"pipeline.label.{name}", f"a field of {feedback.name}", field.place)
    if label.of.kind is not FieldKind.BOOLEAN or label.of.nullable or not label.of.required:
        raise _invalid("pipeline.label.of", "a boolean field that is always there", label.of.place)
    if label.event.kind is not event_id.kind:
        expected = f"a field of kind {event_id.kind}, as {event_id.place}"
        raise _invalid("pipeline.label.event", expected, f"{label.event.kind}")


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.PIPELINE_INVALID, at=at, expected=expected, got=got)


def _load(path: Path) -> Pipeline:
    if not path.is_file():
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(path), expected="a pipeline file", got="nothing"
        )
    module = _run(path)
    found = {id(value): value for value in vars(module).values() if isinstance(value, Pipeline)}
    if len(found) != 1:
        raise SentinelError(
            ErrorCode.PIPELINE_INVALID,
            at=str(path),
            expected="exactly one Pipeline at the top level",
            got=f"{len(found)}",
        )
    return next(iter(found.values()))


def _place(path: Path, origin: str | None, error: BaseException) -> str:
    """Name the file and its last line that took part; the file alone where none did."""
    if isinstance(error, SyntaxError) and error.filename == origin:
        return f"{path}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == origin]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _run(path: Path) -> ModuleType:
    # The name depends on the whole path: two users' pipeline.py must not be taken for each other.
    name = f"sentinel_pipeline_{sha256_hex(str(path.resolve()).encode())[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SentinelError(
            ErrorCode.PIPELINE_INVALID, at=str(path), expected="a .py file", got=path.suffix
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except _MISTAKES as error:
        raise SentinelError(
            ErrorCode.PIPELINE_INVALID,
            at=_place(path, spec.origin, error),
            expected="a file that runs",
            got=f"{type(error).__name__}: {error}",
        ) from error
    except SentinelError as error:
        place = _place(path, spec.origin, error)
        raise SentinelError(
            error.code,
            at=f"{place}: {error.at}",
            expected=error.expected,
            got=error.got,
            hint=error.hint,
        ) from error
    finally:
        del sys.modules[name]
    return module
