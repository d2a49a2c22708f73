"""What a worker counts: plain numbers, added up where traffic passes, read on demand."""

from __future__ import annotations

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
    Served,
)

# A client that went away before its answer was complete: nginx's number, no real status.
CLIENT_CLOSED = 499


class Series:
    """The counters of one (direction, source, destination, kind). Bytes are content and heads
    as the application sees them: `sent` towards the destination, `received` from it."""

    __slots__ = (
        "active",
        "buckets",
        "destination",
        "direction",
        "kind",
        "lived",
        "opened",
        "received",
        "seconds",
        "sent",
        "source",
        "statuses",
    )

    def __init__(self, direction: Direction, source: str, destination: str, kind: str) -> None:
        self.direction = direction
        self.source = source
        self.destination = destination
        self.kind = kind
        self.opened = 0
        self.active = 0
        self.lived = 0.0
        self.sent = 0
        self.received = 0
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def begin(self) -> None:
        self.opened += 1
        self.active += 1

    def end(self, seconds: float) -> None:
        """A connection that lasted so long is over."""
        self.active -= 1
        self.lived += seconds

    def answered(self, status: int, seconds: float) -> None:
        """One exchange is over."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Telemetry:
    """All series of a worker, since it began."""

    __slots__ = ("_refusals", "_series")

    def __init__(self) -> None:
        self._series: dict[tuple[Direction, str, str, str], Series] = {}
        self._refusals: dict[tuple[Direction, str, str, str], int] = {}

    def series(self, direction: Direction, source: str, destination: str, kind: str) -> Series:
        key = (direction, source, destination, kind)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(*key)
        return series

    def refused(
        self, direction: Direction, source: str, destination: str, refusal: Refusal
    ) -> None:
        key = (direction, source, destination, refusal.code)
        self._refusals[key] = self._refusals.get(key, 0) + 1

    def report(self, pid: int, generation: int, served: tuple[Served, ...]) -> Report:
        requests: dict[tuple[Direction, str, str, int], int] = {}
        latencies: dict[tuple[Direction, str], tuple[list[int], float]] = {}
        connections: list[ConnectionCount] = []
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
            for status, count in series.statuses.items():
                requests[*who, status] = requests.get((*who, status), 0) + count
            if series.statuses:
                key = (series.direction, series.destination)
                counts, total = latencies.get(key, ([0] * len(series.buckets), 0.0))
                merged = [one + other for one, other in zip(counts, series.buckets, strict=True)]
                latencies[key] = (merged, total + series.seconds)
        return Report(
            pid=pid,
            generation=generation,
            requests=tuple(RequestCount(*key, count) for key, count in requests.items()),
            connections=tuple(connections),
            refusals=tuple(RefusalCount(*key, count) for key, count in self._refusals.items()),
            latencies=tuple(
                Latency(*key, tuple(counts), total) for key, (counts, total) in latencies.items()
            ),
            served=served,
        )
