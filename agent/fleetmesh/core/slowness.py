"""How long the slowest of a target's answers take: the p95, of its last hundreds above all."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

LEAST: Final = 50  # answers before anything is said of them
MEMORY: Final = 1000  # answers after which every count is halved
REFRESH: Final = 25  # answers after which the p95 is reckoned anew
SHARE: Final = 0.95

# Each a fifth more than the last: half a millisecond to 49 seconds.
BOUNDS: Final = tuple(0.0005 * 1.2**number for number in range(64))


class Slowness:
    """`p95` in seconds, rounded up by a fifth at most; 0.0 before it is known."""

    __slots__ = ("_counts", "_fresh", "_total", "p95")

    def __init__(self) -> None:
        self._counts = [0.0] * (len(BOUNDS) + 1)
        self._total = 0.0
        self._fresh = 0
        self.p95 = 0.0

    def observe(self, seconds: float) -> None:
        """Of an answer, how long it took to begin; of one that was not waited for, how long that
        was waited for."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1.0
        self._total += 1.0
        self._fresh += 1
        if self._total >= MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._total = sum(self._counts)
        if self._fresh >= REFRESH and self._total >= LEAST:
            self._fresh = 0
            self.p95 = self._reckoned()

    def _reckoned(self) -> float:
        wanted = SHARE * self._total
        for number, bound in enumerate(BOUNDS):
            wanted -= self._counts[number]
            if wanted <= 0.0:
                return bound
        return BOUNDS[-1]
