"""What a worker counts: plain numbers, added up where traffic passes, read on demand."""

from __future__ import annotations

import time
from bisect import bisect_left

from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import (
    BUCKETS,
    ConnectionCount,
    Direction,
    Latency,
    RefusalCount,
    Report,
    RequestCount,
    RetryCount,
    Served,
)

# A client that went away before its answer was complete: nginx's number, no real status.
CLIENT_CLOSED = 499


class Tally:
    """Content and heads as the application sees them: bytes `sent` towards the destination,
    `received` from it."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    def answered(self, route: str, status: int, started: float) -> None:
        """The exchange that began at `started` (monotonic seconds) is over."""
        raise NotImplementedError

    def fold(self) -> None:
        """Tell whom it stands in for of what it counted so far."""


class Answers:
    """The exchanges of one route that ended with one status code: a histogram, as long as it will
    ever be, and the sum of its seconds."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0


class Series(Tally):
    """The counters of one (direction, source, destination, kind); `answers` by route and status,
    `retries` by route, as a RetryCount has them.

    An array for each exact status costs less on the path than one for each class beside a count
    of the exact ones, and sums up to the same.
    """

    __slots__ = (
        "active",
        "answers",
        "destination",
        "direction",
        "kind",
        "lived",
        "opened",
        "retries",
        "source",
    )

    def __init__(self, direction: Direction, source: str, destination: str, kind: str) -> None:
        super().__init__()
        self.direction = direction
        self.source = source
        self.destination = destination
        self.kind = kind
        self.opened = 0
        self.active = 0
        self.lived = 0.0
        self.answers: dict[str, dict[int, Answers]] = {}
        self.retries: dict[str, list[int]] = {}

    def begin(self) -> None:
        self.opened += 1
        self.active += 1

    def end(self, seconds: float) -> None:
        """A connection that lasted so long is over."""
        self.active -= 1
        self.lived += seconds

    def answered(self, route: str, status: int, started: float) -> None:
        seconds = time.monotonic() - started
        try:
            answers = self.answers[route][status]
        except KeyError:
            answers = self.answers.setdefault(route, {}).setdefault(status, Answers())
        answers.buckets[bisect_left(BUCKETS, seconds)] += 1
        answers.seconds += seconds

    def ended(self) -> int:
        """The exchanges that are over."""
        by_route = self.answers.values()
        return sum([sum(one.buckets) for by_status in by_route for one in by_status.values()])

    def retried(self, route: str) -> None:
        """A request is sent once more."""
        self._again(route, 0)

    def spared(self, route: str) -> None:
        """It is not, for the budget is spent."""
        self._again(route, 1)

    def hedged(self, route: str) -> None:
        """It is sent to another endpoint while it is under way."""
        self._again(route, 2)

    def won(self, route: str) -> None:
        """That one was the quicker."""
        self._again(route, 3)

    def _again(self, route: str, what: int) -> None:
        self.retries.setdefault(route, [0, 0, 0, 0])[what] += 1


class Telemetry:
    """All series of a worker, since it began. `tallies` hold bytes that no series knows yet."""

    __slots__ = ("_refusals", "_series", "tallies")

    def __init__(self) -> None:
        self._series: dict[tuple[Direction, str, str, str], Series] = {}
        self._refusals: dict[tuple[Direction, str, str, str], int] = {}
        self.tallies: set[Tally] = set()

    def series(self, direction: Direction, source: str, destination: str, kind: str) -> Series:
        key = (direction, source, destination, kind)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(direction, source, destination, kind)
        return series

    def refused(
        self, direction: Direction, source: str, destination: str, refusal: Refusal
    ) -> None:
        key = (direction, source, destination, refusal.code)
        self._refusals[key] = self._refusals.get(key, 0) + 1

    def report(self, pid: int, generation: int, served: tuple[Served, ...]) -> Report:
        for tally in self.tallies:
            tally.fold()
        requests: list[RequestCount] = []
        latencies: list[Latency] = []
        connections: list[ConnectionCount] = []
        retries: list[RetryCount] = []
        for series in self._series.values():
            who = (series.direction, series.source, series.destination)
            connections.append(
                ConnectionCount(
                    *who,
                    series.kind,
                    series.opened,
                    series.active,
                    series.sent,
                    series.received,
                    series.lived,
                )
            )
            for route, counts in series.retries.items():
                retries.append(RetryCount(*who, route, *counts))
            for route, by_status in series.answers.items():
                for status, answers in by_status.items():
                    requests.append(RequestCount(*who, status, sum(answers.buckets), route))
                latencies.extend(_latencies(series, route, by_status))
        return Report(
            pid=pid,
            generation=generation,
            requests=tuple(requests),
            connections=tuple(connections),
            refusals=tuple(RefusalCount(*key, count) for key, count in self._refusals.items()),
            latencies=tuple(latencies),
            retries=tuple(retries),
            served=served,
        )


def _latencies(series: Series, route: str, by_status: dict[int, Answers]) -> list[Latency]:
    """One for each class of status codes that occurred."""
    found = []
    for code_class in sorted({status // 100 for status in by_status}):
        members = [by_status[status] for status in by_status if status // 100 == code_class]
        found.append(
            Latency(
                series.direction,
                series.source,
                series.destination,
                route,
                code_class,
                tuple(map(sum, zip(*(answers.buckets for answers in members), strict=True))),
                sum(answers.seconds for answers in members),
            )
        )
    return found
