"""A second breaker, written from the documentation only: it keeps all history and looks back."""

from __future__ import annotations

from dataclasses import dataclass, field

from sentinel.scoring.policy import BreakerRules


@dataclass
class Ended:
    start: float
    end: float
    failed: bool
    slow: bool


@dataclass
class NaiveBreaker:
    """Recomputes every rule from the whole history of the current state, each time."""

    rules: BreakerRules
    now: float = 0.0
    state: str = "closed"
    since: float = 0.0
    history: list[Ended] = field(default_factory=list)
    flying: dict[int, float] = field(default_factory=dict)
    n_steps: int = 0

    def go(self, state: str) -> None:
        self.state, self.since = state, self.now
        self.history, self.flying = [], {}
        self.n_steps += 1

    def time(self, now: float) -> None:
        self.now = max(self.now, now)
        age = self.now - self.since
        if self.state == "open" and age >= self.rules.pause_s:
            self.go("half-open")
        elif self.state == "half-open" and age >= self.rules.probe_deadline_s:
            self.go("open")
        elif self.state == "closed" and self.flying:
            oldest = max(min(self.flying.values()), self.last_fast())
            if self.now - oldest >= max(self.rules.slow_for_s, self.rules.latency_ms_max / 1000):
                self.go("open")

    def last_fast(self) -> float:
        ends = [call.end for call in self.history if not call.failed and not call.slow]
        return max(ends, default=self.since)

    def admit(self, number: int, now: float) -> bool:
        self.time(now)
        if self.state != "closed":
            return False
        self.flying[number] = self.now
        return True

    def probe(self, number: int, now: float) -> bool:
        self.time(now)
        if self.state != "half-open" or self.flying:
            return False
        self.flying[number] = self.now
        return True

    def finish(self, number: int, now: float, *, failed: bool) -> None:
        self.time(now)
        if number not in self.flying:
            return
        start = self.flying.pop(number)
        slow = (self.now - start) * 1000 > self.rules.latency_ms_max
        call = Ended(start, self.now, failed, slow)
        if self.state == "half-open":
            self.history.append(call)
            if failed or slow:
                self.go("open")
            elif len(self.history) >= self.rules.closes_after:
                self.go("closed")
            return
        last_fast = self.last_fast()
        call.start = max(start, last_fast)
        self.history.append(call)
        if self.fails_too_often() or self.slow_run() or self.slow_share():
            self.go("open")

    def fails_too_often(self) -> bool:
        tail = self.history[-self.rules.failures_in_a_row :]
        if len(tail) == self.rules.failures_in_a_row and all(call.failed for call in tail):
            return True
        window = self.history[-self.rules.window_calls :]
        n_failed = len([call for call in window if call.failed])
        is_full = len(window) == self.rules.window_calls
        return is_full and n_failed >= self.rules.failed_share * len(window)

    def slow_run(self) -> bool:
        run: list[Ended] = []
        for call in self.history:
            if not call.slow and not call.failed:
                run = []
            elif call.slow:
                if run and call.start - run[-1].end >= self.rules.slow_for_s:
                    run = []
                run.append(call)
        if len(run) < self.rules.slow_calls_min:
            return False
        return self.now - run[0].start >= self.rules.slow_for_s

    def slow_share(self) -> bool:
        window = self.history[-self.rules.window_calls :]
        if len(window) < self.rules.window_calls:
            return False
        n_slow = len([call for call in window if call.slow])
        is_long = self.now - window[0].end >= self.rules.slow_for_s
        return is_long and n_slow >= self.rules.slow_share * len(window)

    def trip(self, now: float) -> None:
        self.time(now)
        if self.state != "latched":
            self.go("latched")

    def force(self, what: str, now: float) -> bool:
        self.time(now)
        is_latched = self.state == "latched"
        if what == "open":
            self.go("latched")
        elif what == "close" and not is_latched:
            self.go("closed")
        elif what == "reset" and is_latched:
            self.go("half-open")
        else:
            return False
        return True
