"""What a run's requests say: success, latencies, when traffic moved away and when it came back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEP = 0.25
"""Seconds: how exactly a moment is told."""
WINDOW = 1.0
TOUCHED = 0.02
"""Traffic has moved away once no more than this share of a second's requests feels the fault: what
tries whether a victim is well again is less."""
BACK_WINDOW = 2.0
BACK_SHARE = 0.5
"""An instance is back once it answers half of its even share over BACK_WINDOW seconds."""


@dataclass(frozen=True)
class Request:
    """`due` in seconds since the epoch, `ms` until its answer was whole; `status` 0 is no answer.
    `said` is the instance that answered, or what was wrong."""

    due: float
    ms: float
    status: int
    said: str

    @property
    def failed(self) -> bool:
        return self.status != 200

    def by(self, instances: Iterable[str]) -> bool:
        """Whether one of these hosts' applications answered it, with whatever status."""
        return any(self.said.startswith(f"{name}/") for name in instances)


@dataclass(frozen=True)
class Span:
    """The requests that were due from `start` until `end`."""

    start: float
    end: float
    requests: tuple[Request, ...]

    @classmethod
    def of(cls, requests: Iterable[Request], start: float, end: float) -> Span:
        return cls(start, end, tuple(one for one in requests if start <= one.due < end))

    @property
    def failures(self) -> list[Request]:
        return [one for one in self.requests if one.failed]

    @property
    def success(self) -> float:
        """1.0 of nothing."""
        count = len(self.requests)
        return 1.0 if count == 0 else 1 - len(self.failures) / count

    def percentile(self, share: float) -> float:
        """Milliseconds; infinite where so many have no answer."""
        ordered = sorted(math.inf if one.status == 0 else one.ms for one in self.requests)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else math.nan

    def share(self, instances: Sequence[str]) -> float:
        count = len(self.requests)
        return sum(one.by(instances) for one in self.requests) / count if count else 0.0

    def since(self, seconds: float) -> Span:
        return Span.of(self.requests, self.start + seconds, self.end)


def moved_away(fault: Span, victims: Sequence[str], slow_ms: float) -> float | None:
    """Seconds after the fault's begin from which in every WINDOW of the span at most TOUCHED of the
    requests fail, are answered by a victim or take longer than `slow_ms`; None when that is never.
    """
    touched = [
        (one.due - fault.start, one.failed or one.by(victims) or one.ms > slow_ms)
        for one in fault.requests
    ]
    last = fault.end - fault.start - WINDOW
    away: float | None = None
    moment = 0.0
    while moment <= last:
        felt = [bad for at, bad in touched if moment <= at < moment + WINDOW]
        if felt and sum(felt) / len(felt) > TOUCHED:
            away = None
        elif away is None:
            away = moment
        moment += STEP
    return away


def came_back(after: Span, victims: Sequence[str], of: int) -> float | None:
    """Seconds after the span's begin until every victim, one of `of` instances, answers again with
    200 as much as BACK_SHARE of its even share; None when that does not happen in the span."""
    moment = 0.0
    while moment <= after.end - after.start - BACK_WINDOW:
        begin = after.start + moment
        window = Span.of(after.requests, begin, begin + BACK_WINDOW)
        good = [one for one in window.requests if not one.failed]
        if good and all(
            sum(one.by([victim]) for one in good) / len(good) >= BACK_SHARE / of
            for victim in victims
        ):
            return moment
        moment += STEP
    return None
