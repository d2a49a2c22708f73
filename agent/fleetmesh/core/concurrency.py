"""How many requests an application is given at a time: as many as it answers no slower for.

A gradient controller, after Envoy's adaptive_concurrency and Netflix's concurrency-limits: the
latency of the moment is held against that of an application that is not loaded. Where the two come
apart there is a queue, and the limit is lowered; where they do not it may grow. ADR 22 says how
the second is known, and why so. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from fleetmesh.core.observer import Observer

INITIAL: Final = 10.0
"""Of all workers together, until the application has shown what it can."""
TOLERANCE: Final = 1.5
"""Times the unloaded latency before the limit is lowered; Netflix's."""
SLACK: Final = 0.005  # seconds above it that say nothing: the machine's own noise
STEEPEST: Final = 0.5  # what one window takes from the limit at most
RESERVE: Final = 0.2
"""Of the limit, for requests whose trace was under way before they came to their caller."""
KNOWN: Final = 10  # answers before anything is called late
IN_A_ROW: Final = 3  # answers that are late, and there is a queue
MEMORY: Final = 1000  # answers in the mean that is the latency without one
FASTEST: Final = 1.25  # how much that may grow in an epoch: a queue that grows slowly is one, too
WINDOW: Final = 0.1  # seconds, and so many answers; with few answers a longer one with fewer
ANSWERS: Final = 20
LONG_WINDOW: Final = 1.0
FEW_ANSWERS: Final = 5
EPOCH: Final = 5.0
"""Seconds of the clock that all workers of a host share: they look for the unloaded latency at the
same moment, and none has to be told."""
PROBE: Final = 0.7  # of what can be under way without a queue, while that is looked for
PROBE_SECONDS: Final = 0.5
PROBE_ANSWERS: Final = 3

# What it does.
GROWING: Final = 0  # nothing has shown a queue
STEERING: Final = 1  # there is one, or was: its length is kept
PROBING: Final = 2  # few requests for a moment, to see how long they take without one


class Concurrency(Observer):
    """Of one worker of `workers`. `limit` is a number that need not be whole; `baseline` the
    latency without a queue, 0.0 before it is known."""

    __slots__ = (
        "_before",
        "_began",
        "_busiest",
        "_count",
        "_epoch",
        "_fresh",
        "_full",
        "_initial",
        "_most",
        "_peak",
        "_places",
        "_probe_ends",
        "_refusing",
        "_samples",
        "_workers",
        "baseline",
        "limit",
        "state",
    )

    def __init__(self, workers: int, now: float) -> None:
        self._workers = max(workers, 1)
        self._initial = max(INITIAL / self._workers, 2.0)
        self.state = GROWING
        self.limit = self._initial
        self.baseline = 0.0
        self._count = 0
        self._most = 0.0  # what the baseline may grow to in this epoch
        self._samples: list[float] = []
        self._before = self.limit  # when it was last looked for a queue
        self._began = now
        self._peak = self._busiest = 0  # under way at once, in the window and in the epoch
        self._full = self._refusing = False  # more were asked for, likewise
        self._epoch = now // EPOCH
        self._probe_ends = 0.0
        self._places = self._fresh = 0
        self._allow(self.limit)

    def admits(self, active: int, under_way: bool, now: float) -> bool:
        """Whether one more than `active` may begin; `under_way`: its trace did so elsewhere."""
        if now // EPOCH != self._epoch:
            self._next_epoch(now)
        elif self.state == PROBING and now >= self._probe_ends:
            self._end_probe(now)
        if active > self._peak:
            self._peak = active
        if active < (self._places if under_way else self._fresh):
            return True
        self._full = self._refusing = True
        return False

    # What the application did.

    def answered(self, status: int, seconds: float, now: float) -> None:
        """A failure may be quick for the work that was not done."""
        if 200 <= status < 500 and seconds > 0.0:
            self._observe(seconds, now)

    def waited(self, seconds: float, now: float) -> None:
        if seconds > self.baseline > 0.0:
            self._observe(seconds, now)

    def shed(self, seconds: float, now: float) -> None:
        """The application has a limit of its own, and that is the lower one."""

    def unanswered(self, now: float) -> None:
        """How long it would have taken nobody knows."""

    def broke_off(self) -> None:
        """Its head told what there was to know."""

    def reached(self, now: float) -> None:
        """Not a request."""

    # What is made of that.

    @property
    def allowed(self) -> float:
        """Seconds that do not show a queue."""
        return max(TOLERANCE * self.baseline, self.baseline + SLACK)

    def _observe(self, seconds: float, now: float) -> None:
        if self.state == GROWING:
            self._grow(seconds, now)
            return
        if now - seconds < self._began:
            return  # sent under another limit
        self._samples.append(seconds)
        if self.state == PROBING:
            return
        elapsed = now - self._began
        count = len(self._samples)
        if elapsed >= WINDOW and (
            count >= ANSWERS or (elapsed >= LONG_WINDOW and count >= FEW_ANSWERS)
        ):
            self._steer(now)

    def _grow(self, seconds: float, now: float) -> None:
        """By one for every answer that is in time: twofold in the time that one takes."""
        if self._count >= KNOWN and seconds > self.allowed:
            self._samples.append(seconds)
            if len(self._samples) == IN_A_ROW:
                self.state = STEERING
                self._before = self.limit
                self._begin_window(now)
            return
        for late in self._samples:
            self._mean(late)
        self._samples.clear()
        self._mean(seconds)
        if 2 * self._peak >= self.limit and seconds <= self.allowed:
            self.limit += 1.0
            self._allow(self.limit)

    def _mean(self, seconds: float) -> None:
        self._count = min(self._count + 1, MEMORY)
        mean = self.baseline + (seconds - self.baseline) / self._count
        self.baseline = min(mean, self._most) if self._most else mean

    def _steer(self, now: float) -> None:
        """A window is over."""
        if self._full or 2 * self._peak >= self.limit:
            aim = self.limit * min(max(self.allowed / self._middle(), STEEPEST), TOLERANCE)
            # The room to grow is the square root of all workers' limit, shared by them.
            self.limit = max(aim + sqrt(aim * self._workers) / self._workers, 1.0)
            self._before = max(self._before, self.limit)
            self._allow(self.limit)
            if 4.0 * self.limit < self._before and self._refusing:
                # A quarter as many are as slow: then it may not be for a queue.
                self._probe(now)
                return
        self._begin_window(now)

    def _next_epoch(self, now: float) -> None:
        self._epoch = now // EPOCH
        busiest = max(self._busiest, self._peak)
        refusing, self._refusing = self._refusing, False
        self._busiest = 0
        self._most = self.baseline * FASTEST
        if self.state == STEERING and refusing:
            self._probe(now)
        elif not refusing:
            # Nobody wanted more: what the limit was for may be long ago.
            self.state = GROWING
            self.limit = max(min(self.limit, 2.0 * busiest), self._initial)
            self._begin_window(now)
            self._allow(self.limit)

    def _probe(self, now: float) -> None:
        known = len(self._samples) >= FEW_ANSWERS
        middle = self._middle() if known else self.allowed
        self.state = PROBING
        self._allow(PROBE * self.limit * min(self.baseline / middle, 1.0))
        self._begin_window(now)
        self._began += middle  # by then those that wait have been answered
        self._probe_ends = self._began + max(PROBE_SECONDS, 3 * middle)

    def _end_probe(self, now: float) -> None:
        count = len(self._samples)
        if count >= PROBE_ANSWERS:
            middle = self._middle()
            weight = 1.0 if middle < self.baseline else max(count / (count + ANSWERS), 0.5)
            self.baseline += (middle - self.baseline) * weight
        self.state = STEERING
        self._before = self.limit
        self._begin_window(now)
        self._allow(self.limit)

    def _middle(self) -> float:
        self._samples.sort()
        return self._samples[len(self._samples) // 2]

    def _begin_window(self, now: float) -> None:
        self._samples = []
        self._began = now
        self._busiest = max(self._busiest, self._peak)
        self._peak = 0
        self._full = False

    def _allow(self, limit: float) -> None:
        self._places = max(round(limit), 1)
        self._fresh = max(round(limit * (1.0 - RESERVE)), 1)
