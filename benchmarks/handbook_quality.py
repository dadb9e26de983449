"""How good the decisions are on the Handbook's transactions, beside the book's own models.

The usual split: train on 2018-07-25 to 07-31, labels a week late, judge on 2018-08-08 to 08-14,
cards known as compromised before the day removed (Le Borgne et al., chapters 3 to 5). The rivals
are the book's models on the book's features, computed here as the book does. Then ours, on the
same rows; then ours, trained on all history before. The last lines say what no model can know.

Settings and features were chosen on earlier weeks (judged 07-11 to 07-31), never on these days.
Needs the published data; says so and ends where there are none.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.contract import RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.data import EventFolder
from sentinel.data.event_folder import read_scenarios
from sentinel.data.handbook import SCENARIOS, handbook_is_there, prepare_handbook
from sentinel.release import Pipeline
from sentinel.training import (
    EvaluationSettings,
    Fitted,
    History,
    Judged,
    ModelSettings,
    TimeSplit,
    evaluate,
    fit,
    read_history,
    recall_by_slice,
)

ROOT = Path(__file__).parent.parent
DAY_MS = 86_400_000
FLAGGED_SHARE = 0.005
ASKED_AP = 0.66
SETTINGS = EvaluationSettings(flagged_share=FLAGGED_SHARE)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def day(text: str) -> int:
    """Return the first millisecond of a day, UTC."""
    moment = dt.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=dt.UTC)
    return int(moment.timestamp()) * 1000


WEEK = TimeSplit(
    train_from_ms=day("2018-07-25"),
    cut_ms=day("2018-08-08"),
    until_ms=day("2018-08-15"),
    delay_ms=7 * DAY_MS,
)
# The first weeks are left out: fraud only ramps up, and windows are not full.
HISTORY = TimeSplit(
    train_from_ms=day("2018-04-11"),
    cut_ms=WEEK.cut_ms,
    until_ms=WEEK.until_ms,
    delay_ms=WEEK.delay_ms,
)


@dataclass(frozen=True, slots=True)
class World:
    """The log, the rows that judge, and which scenario each of them is."""

    history: History
    truth: Booleans
    scenario: Integers
    train: Integers
    judged: Integers

    def judge(self, scores: Floats) -> Judged:
        """Put scores of the judged rows beside their labels."""
        return Judged(
            scores=scores,
            is_positive=self.truth[self.judged],
            times_ms=self.history.replayed.times_ms[self.judged],
            entities=self.history.entities[self.judged],
            amounts=None if self.history.amounts is None else self.history.amounts[self.judged],
        )

    def slices(self) -> dict[str, Booleans]:
        """Frauds of each scenario, with all genuine events."""
        scenario = self.scenario[self.judged]
        return {
            name: (scenario == number) | (scenario == 0)
            for number, name in enumerate(SCENARIOS)
            if number
        }


def main() -> None:
    """Replay once, then fit and judge everything."""
    if not handbook_is_there():
        print("The Handbook's data are not here (docs/data.md says how to get them): skipped.")
        sys.exit(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepare_handbook(Path(temporary) / "handbook")
        history = replayed(folder)
        week = fitted("one week", history, WEEK)
        world = make_world(history, week, folder)
    book = book_features(history, world.truth)
    rows: list[tuple[str, Floats]] = [
        (f"{name}, the book's features, one week", scores)
        for name, scores in book_models(world, book)
    ]
    rows += [
        ("fallback, one week", scores_of(week, world, fallback=True)),
        ("champion, one week", scores_of(week, world)),
    ]
    whole = fitted("all history", history, HISTORY)
    rows += [
        ("fallback, all history", scores_of(whole, world, fallback=True)),
        ("champion, all history", scores_of(whole, world)),
        ("limit: all that is knowable, no mistake", knowable_scores(world)),
    ]
    show(world, rows)
    show_limits(world, rows)


def replayed(folder: EventFolder) -> History:
    """Replay the whole log with the example's pipeline."""
    pipeline = Pipeline.load(ROOT / "examples" / "handbook" / "pipeline.py")
    started = time.perf_counter()
    if folder.feedback is None:
        raise ValueError("the Handbook has labels")
    history = read_history(pipeline, folder.events, folder.feedback)
    took = time.perf_counter() - started
    n_features = len(history.features.names)
    print(f"replayed {history.replayed.n_rows:,} events, {n_features} features, in {took:.1f} s")
    return history


def fitted(name: str, history: History, split: TimeSplit) -> Fitted:
    """Fit with the example's own settings."""
    started = time.perf_counter()
    result = fit(history, split, ModelSettings.of(history.pipeline.model))
    print(
        f"fitted on {name}: {len(result.parts.train):,} rows, {result.boosted.n_rounds} trees, "
        f"in {time.perf_counter() - started:.1f} s"
    )
    return result


def make_world(history: History, week: Fitted, folder: EventFolder) -> World:
    """Choose the rows that judge; every model is judged on the same ones."""
    scenarios = read_scenarios(folder.scenarios) if folder.scenarios else {}
    numbers = {name: number for number, name in enumerate(SCENARIOS)}
    ids = hashed_ids(history, list(scenarios))
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], history.replayed.event_ids)
    place = np.minimum(place, len(ids) - 1)
    is_fraud = ids[order][place] == history.replayed.event_ids
    kinds = np.array([numbers[name] for name in scenarios.values()])[order]
    return World(
        history=history,
        truth=week.labels.is_positive,
        scenario=np.where(is_fraud, kinds[place], 0),
        train=week.parts.train,
        judged=week.judged_rows[~week.compromised(history)],
    )


def hashed_ids(history: History, names: list[str]) -> Integers:
    """Hash ids as the contract does, by decoding events that hold them."""
    made = (
        json.dumps(
            {
                "transaction_id": name,
                "occurred_at": WEEK.cut_ms,
                "customer_id": 0,
                "terminal_id": 0,
                "amount": 0,
            }
        ).encode()
        for name in names
    )
    decoded = Decoder(history.features.events).decode(RawBatch.from_events(made))
    return decoded.events.column(history.features.events.event_id.name)


def scores_of(result: Fitted, world: World, *, fallback: bool = False) -> Floats:
    """Score the judged rows."""
    values = world.history.replayed.matrix.values[world.judged]
    return result.fallback.scores(values) if fallback else result.boosted.scores(values)


def book_features(history: History, truth: Booleans) -> npt.NDArray[np.float32]:
    """Compute the features of the book's chapter 3, this payment included in its windows."""
    times = history.replayed.times_ms // 1000
    amounts = history.amounts
    if amounts is None:
        raise ValueError("the Handbook has amounts")
    columns: list[npt.ArrayLike] = [
        amounts,
        (times // 86_400 + 4) % 7 >= 5,
        times % 86_400 // 3600 <= 6,
    ]
    customers = history.entities
    terminals = history.replayed.columns["terminal_id"]
    for days in (1, 7, 30):
        n, total = window(customers, times, amounts, days * 86_400, 0)
        columns += [n, total / n]
    for days in (1, 7, 30):
        n, frauds = window(terminals, times, truth.astype(float), days * 86_400, 7 * 86_400)
        columns += [n, frauds / np.maximum(n, 1)]
    return np.column_stack(columns).astype(np.float32)


def window(
    keys: Integers, times_s: Integers, values: Floats, length_s: int, delay_s: int
) -> tuple[Floats, Floats]:
    """Count and sum over ``(t - delay - length, t - delay]``, up to this row, by key."""
    _, numbers = np.unique(keys, return_inverse=True)
    order = np.lexsort((np.arange(len(keys)), times_s, numbers))
    # One ascending number for key and time; windows never reach into the key before.
    line = numbers[order] * (1 << 34) + times_s[order]
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    own = np.arange(len(line)) + 1
    last = np.searchsorted(line, line - delay_s, side="right") if delay_s else own
    first = np.searchsorted(line, line - delay_s - length_s, side="right")
    n, total = np.empty(len(line)), np.empty(len(line))
    n[order], total[order] = last - first, sums[last] - sums[first]
    return n, total


def book_models(world: World, features: npt.NDArray[np.float32]) -> list[tuple[str, Floats]]:
    """Fit the book's models with the book's settings (chapter 5)."""
    import lightgbm
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features[world.train])
    train, judged = (scaler.transform(features[rows]) for rows in (world.train, world.judged))
    models = {
        "logistic regression": LogisticRegression(max_iter=1000),
        "random forest": RandomForestClassifier(random_state=0, n_jobs=2),
        "LightGBM": lightgbm.LGBMClassifier(verbose=-1, n_jobs=2),
    }
    truth = world.truth[world.train]
    scored = []
    for name, model in models.items():
        fitted_model = model.fit(np.asarray(train), truth)
        scored.append((name, np.asarray(fitted_model.predict_proba(judged))[:, 1]))
    return scored


def is_knowable(world: World) -> Booleans:
    """Whether something of a fraud could be known: its amount, or an earlier verdict.

    A payment at a compromised terminal (scenario 2) is like any other. Only verdicts on earlier
    payments there, of the same 28 days, tell it, and they come a week late.
    """
    replay_ = world.history.replayed
    terminals, times = replay_.columns["terminal_id"], replay_.times_ms
    told = np.flatnonzero(world.scenario == 2)
    known = world.scenario[world.judged] > 0
    for place, row in enumerate(world.judged.tolist()):
        if world.scenario[row] == 2:
            age = times[row] - times[told[terminals[told] == terminals[row]]]
            known[place] = bool(((age >= 7 * DAY_MS) & (age < 28 * DAY_MS)).any())
    return known


def knowable_scores(world: World) -> Floats:
    """Put every knowable fraud first, and all else in a drawn order."""
    random = np.random.default_rng(0)
    scores: Floats = is_knowable(world) + random.random(len(world.judged)) * 0.5
    return scores


def show(world: World, rows: list[tuple[str, Floats]]) -> None:
    """Print the table, and each scenario."""
    n_frauds = int(world.truth[world.judged].sum())
    print(f"\njudged on {len(world.judged):,} events, {n_frauds} frauds; asked: AP {ASKED_AP}\n")
    print(f"| {'model':44} | AUC   | AP    | CP@100 | recall at {FLAGGED_SHARE:.1%} | cost |")
    print(f"| {'-' * 44} | ----- | ----- | ------ | -------------- | ---- |")
    for name, scores in rows:
        numbers = evaluate(world.judge(scores), SETTINGS).values()
        print(
            f"| {name:44} | {numbers['auc_roc']:.3f} | {numbers['average_precision']:.3f} "
            f"| {numbers['card_precision']:.3f}  | {numbers['recall_at_share']:14.3f} "
            f"| {numbers['cost_share']:.2f} |"
        )
    bounded = EvaluationSettings(flagged_share=FLAGGED_SHARE, resamples=200)
    for name, scores in rows:
        if name.startswith("champion"):
            metric = evaluate(world.judge(scores), bounded).metrics["average_precision"]
            print(f"\nAP of {name}, 95 % bounds over cards: {metric}", end="")
    print("\n\nBy scenario: AP against all genuine events; recall of the scenario's frauds.")
    slices = world.slices()
    print(f"\n| {'model':44} | {' | '.join(slices)} |")
    print(f"| {'-' * 44} | {' | '.join('-' * len(name) for name in slices)} |")
    for name, scores in rows:
        print(f"| {name:44} | {' | '.join(_scenario_cells(world, scores, slices))} |")


def _scenario_cells(world: World, scores: Floats, slices: Mapping[str, Booleans]) -> list[str]:
    judged = world.judge(scores)
    recall = recall_by_slice(judged, slices, flagged_share=FLAGGED_SHARE)
    cells = []
    for name, chosen in slices.items():
        precision = evaluate(judged.rows(chosen), SETTINGS).metrics["average_precision"]
        cells.append(f"{precision} / {recall[name]}".ljust(len(name)))
    return cells


def show_limits(world: World, rows: list[tuple[str, Floats]]) -> None:
    """Say what caps every model on these rows."""
    scenario = world.scenario[world.judged]
    known = is_knowable(world)
    n_frauds = int((scenario > 0).sum())
    n_terminal = int((scenario == 2).sum())
    n_silent = int(((scenario == 2) & ~known).sum())
    print(
        f"\nOf {n_frauds} frauds, {n_terminal} are at compromised terminals; at {n_silent} of "
        "these payments no verdict on the terminal's 28 days was known yet."
    )
    history = world.history
    amounts = history.amounts
    names = history.features.names
    stolen = world.judged[scenario == 3]
    ratio = history.replayed.matrix.values[stolen, names.index("amount_to_max_90d")]
    if amounts is not None and len(stolen):
        print(
            f"Of {len(stolen)} frauds on compromised customers, {int((ratio <= 1).sum())} are of "
            "no larger amount than the customer's own largest of 90 days."
        )
    champion = dict(rows)["champion, all history"]
    order = np.argsort(-champion, kind="stable")[: int(known.sum())]
    found = int((scenario[order] > 0).sum())
    print(
        f"Of the {int(known.sum())} highest scores of the champion (all history), {found} are "
        "frauds."
    )


if __name__ == "__main__":
    main()
