"""Weighted random choice."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from fleetmesh.balance.choices import Choices


class Random:
    """O(log n) a pick, no state."""

    __slots__ = ("_bounds",)

    def __init__(self, choices: Choices) -> None:
        self._bounds = list(accumulate(choices.weights))

    def pick(self, number: int, now: float) -> int:
        return bisect_right(self._bounds, number % self._bounds[-1])
