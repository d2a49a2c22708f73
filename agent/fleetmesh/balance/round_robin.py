"""Weighted round robin, earliest deadline first: exact shares, evenly interleaved."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class RoundRobin:
    """An endpoint of weight w is due every 1/w: O(log n) a pick, no state but the heap."""

    __slots__ = ("_due", "_weights")

    def __init__(self, weights: Sequence[int], offset: int) -> None:
        self._weights = tuple(weights)
        count = len(weights)
        self._due = [
            (1.0 / weight, (index - offset) % count, index) for index, weight in enumerate(weights)
        ]
        heapq.heapify(self._due)

    def pick(self) -> int:
        due, order, index = self._due[0]
        heapq.heapreplace(self._due, (due + 1.0 / self._weights[index], order, index))
        return index
