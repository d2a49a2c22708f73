"""Weighted round robin, earliest deadline first: exact shares, evenly interleaved."""

from __future__ import annotations

import heapq

from fleetmesh.balance.choices import Choices


class RoundRobin:
    """An endpoint of weight w is due every 1/w: O(log n) a pick, no state but the heap."""

    __slots__ = ("_due", "_weights")

    def __init__(self, choices: Choices) -> None:
        self._weights = choices.weights
        count = len(self._weights)
        self._due = [
            (1.0 / weight, (index - choices.offset) % count, index)
            for index, weight in enumerate(self._weights)
        ]
        heapq.heapify(self._due)

    def pick(self, number: int, now: float) -> int:
        due, order, index = self._due[0]
        heapq.heapreplace(self._due, (due + 1.0 / self._weights[index], order, index))
        return index
