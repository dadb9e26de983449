"""What a user writes: contract, feature set, label and policy in one Python object."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_hex

if TYPE_CHECKING:
    from sentinel.contract import Field
    from sentinel.features import FeatureSet
    from sentinel.scoring.policy import Policy

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
_DURATION = re.compile(r"([1-9][0-9]{0,8})(ms|s|m|h|d)")
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
    TypeError,
    ValueError,
)
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


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
    """

    of: Field
    event: Field
    delay: str

    @property
    def delay_ms(self) -> int:
        """The delay in milliseconds."""
        return parse_duration(self.delay, at="label.delay")


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


def parse_duration(text: str, *, at: str) -> int:
    """Read ``7d``, ``12h``, ``30m``, ``10s`` or ``500ms`` as milliseconds.

    Raises
    ------
    SentinelError
        ``pipeline-invalid`` for anything else.

    Examples
    --------
    >>> parse_duration("7d", at="label.delay")
    604800000
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SentinelError(
            ErrorCode.PIPELINE_INVALID,
            at=at,
            expected="a duration such as 7d, 12h, 30m, 10s or 500ms",
            got=text,
        )
    return int(match[1]) * _UNIT_MS[match[2]]


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
            at=str(path),
            expected="a file that runs",
            got=f"{type(error).__name__}: {error}",
        ) from error
    finally:
        del sys.modules[name]
    return module
