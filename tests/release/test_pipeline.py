"""What a user writes: one object, whose parts belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.release.conftest import Payment, Verdict, declared_features, pipeline

from sentinel.contract import Boolean, Contract, EventId, EventTime, Integer
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import FeatureSet
from sentinel.release import Label, Pipeline
from sentinel.scoring.policy import Policy

FILE = """
from sentinel.contract import *
from sentinel.features import Entity, Count, FeatureSet
from sentinel.release import Label, Pipeline
from sentinel.scoring.policy import Policy

class Payment(Contract, name="payment", version="1"):
    payment_id = EventId(bytes_max=16)
    paid_at = EventTime(unit="ms")
    card_id = Key(bytes_max=16)

class Verdict(Contract, name="verdict", version="1"):
    verdict_id = EventId(bytes_max=16)
    known_at = EventTime(unit="ms")
    payment_id = Key(bytes_max=16)
    is_fraud = Boolean()

card = Entity("card", key=Payment.card_id)
features = FeatureSet("payments", version="1", events=Payment, feedback=Verdict,
                      features=[Count("n_1h", by=card, over="1h")])
pipeline = Pipeline(
    name="payments",
    features=features,
    label=Label(of=Verdict.is_fraud, event=Verdict.payment_id, delay="7d"),
    policy=Policy(review_share=0.01, decline_share=0.001),
)
"""


class Other(Contract, name="other", version="1"):
    other_id = EventId(bytes_max=16)
    at = EventTime(unit="ms")
    is_fraud = Boolean()


class Odd(Contract, name="odd", version="1"):
    odd_id = EventId(bytes_max=16)
    at = EventTime(unit="ms")
    number = Integer(minimum=0, maximum=9)
    perhaps = Boolean(nullable=True)


def odd_features() -> FeatureSet:
    return FeatureSet(
        "payments",
        version="1",
        events=Payment,
        feedback=Odd,
        features=declared_features().features[:1],
    )


def make(**changes: object) -> Pipeline:
    good = pipeline()
    parts = {
        name: getattr(good, name) for name in ("name", "version", "features", "label", "policy")
    }
    return Pipeline(**{**parts, **changes})  # type: ignore[arg-type]


def label(**changes: object) -> Label:
    parts = {"of": Verdict.is_fraud, "event": Verdict.payment_id, "delay": "7d", **changes}
    return Label(**parts)  # type: ignore[arg-type]


WRONG = {
    "a name with a slash": (lambda: make(name="a/b"), "pipeline.name"),
    "no name": (lambda: make(name=""), "pipeline.name"),
    "a version of words": (lambda: make(version="latest"), "pipeline.version"),
    "features that are none": (lambda: make(features=[]), "pipeline.features"),
    "a label that is none": (lambda: make(label="is_fraud"), "pipeline.label"),
    "a policy that is none": (lambda: make(policy={}), "pipeline.policy"),
    "no feedback": (
        lambda: make(
            features=FeatureSet(
                "payments",
                version="1",
                events=Payment,
                features=declared_features().features[:1],
            )
        ),
        "pipeline.features.feedback",
    ),
    "a label of another contract": (
        lambda: make(label=label(of=Other.is_fraud)),
        "pipeline.label.of",
    ),
    "a label of the event itself": (
        lambda: make(label=label(event=Payment.payment_id)),
        "pipeline.label.event",
    ),
    "a label that is a number": (
        lambda: make(features=odd_features(), label=label(of=Odd.number, event=Odd.odd_id)),
        "pipeline.label.of",
    ),
    "a label that may be absent": (
        lambda: make(features=odd_features(), label=label(of=Odd.perhaps, event=Odd.odd_id)),
        "pipeline.label.of",
    ),
    "an event id of another kind": (
        lambda: make(label=label(event=Verdict.known_at)),
        "pipeline.label.event",
    ),
    "a field that is none": (lambda: label(of="is_fraud"), "label.of"),
    "a delay without a unit": (lambda: label(delay="7"), "label.delay"),
    "a delay of nothing": (lambda: label(delay="0d"), "label.delay"),
    "a delay in numbers": (lambda: label(delay=7), "label.delay"),
}


@pytest.mark.parametrize("what", WRONG)
def test_parts_that_do_not_belong_together_are_refused(what: str) -> None:
    made, at = WRONG[what]
    with pytest.raises(SentinelError) as caught:
        made()
    assert (caught.value.code, caught.value.at) == (ErrorCode.PIPELINE_INVALID, at)


def test_a_pipeline_file_is_run_and_gives_its_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.py"
    path.write_text(FILE + "same = pipeline\n")
    loaded = Pipeline.load(path)
    assert (loaded.name, loaded.version) == ("payments", "1.0.0")
    assert loaded.label.delay_ms == 7 * 86_400_000
    assert loaded.policy == Policy(review_share=0.01, decline_share=0.001)


def test_two_pipeline_files_of_one_name_are_two_pipelines(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pipeline.py").write_text(
            FILE.replace('name="payments",\n    f', f'name="{name}",\n    f')
        )
    assert [Pipeline.load(tmp_path / name / "pipeline.py").name for name in ("a", "b")] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1",
        FILE + "import copy, dataclasses\nother = dataclasses.replace(pipeline, name='b')\n",
        "1 / 0",
        "import a_module_that_is_not_there",
        "def broken(:",
        "undefined",
        "raise ValueError('x')",
        "assert False",
        "{}['a']",
        "None.x",
    ],
)
def test_a_file_without_exactly_one_pipeline_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pipeline.py"
    path.write_text(text)
    with pytest.raises(SentinelError) as caught:
        Pipeline.load(path)
    assert caught.value.code is ErrorCode.PIPELINE_INVALID
    is_run = text == "" or "=" in text.splitlines()[-1]
    assert caught.value.at == (str(path) if is_run else f"{path}, line 1")


@pytest.mark.parametrize("text", ["sys.exit(0)", "sys.exit()", "raise SystemExit(2)", "def f(:"])
def test_an_error_in_the_file_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pipeline.py"
    path.write_text(f"import sys\n\n{text}\n")
    with pytest.raises(SentinelError) as caught:
        Pipeline.load(path)
    assert caught.value.code is ErrorCode.PIPELINE_INVALID
    assert caught.value.at == f"{path}, line 3"


def test_an_error_of_sentinel_in_the_file_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.py"
    path.write_text(FILE.replace('delay="7d"', 'delay="soon"'))
    with pytest.raises(SentinelError) as caught:
        Pipeline.load(path)
    line = FILE[: FILE.index('delay="7d"')].count("\n") + 1
    place, _, inner = caught.value.at.rpartition(": ")
    assert inner == "label.delay"
    assert place.startswith(f"{path}, line ")
    assert abs(int(place.rpartition(" ")[2]) - line) <= 3


def test_a_pipeline_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        Pipeline.load(tmp_path / "none.py")
    assert caught.value.code is ErrorCode.FILE_MISSING
    (tmp_path / "pipeline.txt").write_text(FILE)
    with pytest.raises(SentinelError) as caught:
        Pipeline.load(tmp_path / "pipeline.txt")
    assert caught.value.code is ErrorCode.PIPELINE_INVALID
