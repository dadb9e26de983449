"""Sample events are the same for the same seed and keep their contracts."""

from __future__ import annotations

import pytest

from sentinel.contract import Decoder
from sentinel.data.simulator import Transaction, Verdict
from sentinel.testing import sample_events, sample_feedback


@pytest.mark.parametrize("n", [1, 17, 3_000, 9_000])
def test_samples_have_the_number_asked_for_and_keep_their_contracts(n: int) -> None:
    events, feedback = sample_events(n, seed=5), sample_feedback(n, seed=5)
    assert (events.n_events, feedback.n_events) == (n, n)
    assert Decoder(Transaction.schema).decode(events).refusals == ()
    assert Decoder(Verdict.schema).decode(feedback).refusals == ()


def test_the_same_seed_gives_the_same_events_and_another_gives_others() -> None:
    assert (
        sample_events(50, seed=1).content.tobytes() == sample_events(50, seed=1).content.tobytes()
    )
    assert (
        sample_events(50, seed=1).content.tobytes() != sample_events(50, seed=2).content.tobytes()
    )
