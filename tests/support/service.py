"""An application in simulated time: so many requests at once, the others in a queue without end."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence

from fleetmesh.core.concurrency import Concurrency

Request = tuple[float, int, bool]
"""When it was admitted, by whose limit, and whether its trace was under way."""


class Service:
    """`takes(now)` is how long a request takes that begins at `now`, in seconds. `limits` are the
    workers' in front of it; None lets everything in. Requests come at `rate`, each to the worker
    that chance chooses, a `share` of them under way."""

    def __init__(
        self,
        slots: int,
        takes: Callable[[float], float],
        limits: Sequence[Concurrency] = (),
        share: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.latencies: list[tuple[float, float]] = []
        self.admitted = {True: 0, False: 0}
        self.refused = {True: 0, False: 0}
        self._slots = slots
        self._takes = takes
        self._limits = limits
        self._active = [0] * max(len(limits), 1)
        self._share = share
        self._chance = random.Random(seed)
        self._waiting: deque[Request] = deque()
        self._busy: list[tuple[float, int, Request]] = []
        self._count = 0

    def run(self, seconds: float, rate: float) -> None:
        end = self.now + seconds
        while (coming := self.now + self._chance.expovariate(rate)) < end:
            self._until(coming)
            self._arrive()
        self._until(end)

    def _arrive(self) -> None:
        at = self._chance.randrange(len(self._active))
        under_way = self._chance.random() < self._share
        if self._limits and not self._limits[at].admits(self._active[at], under_way, self.now):
            self.refused[under_way] += 1
            return
        self.admitted[under_way] += 1
        self._active[at] += 1
        self._waiting.append((self.now, at, under_way))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._busy) < self._slots:
            self._count += 1
            ends = self.now + self._takes(self.now)
            heapq.heappush(self._busy, (ends, self._count, self._waiting.popleft()))

    def _until(self, moment: float) -> None:
        while self._busy and self._busy[0][0] <= moment:
            self.now, _, (came, at, _) = heapq.heappop(self._busy)
            self._active[at] -= 1
            self.latencies.append((self.now, self.now - came))
            if self._limits:
                self._limits[at].answered(200, self.now - came, self.now)
            self._begin()
        self.now = moment

    def goodput(self, begin: float, end: float, within: float) -> float:
        """Answers a second that were given in time."""
        good = sum(begin <= at < end and took <= within for at, took in self.latencies)
        return good / (end - begin)

    def latency(self, begin: float, end: float, share: float) -> float:
        """The quantile of what was answered."""
        found = sorted(took for at, took in self.latencies if begin <= at < end)
        return found[min(int(len(found) * share), len(found) - 1)]
