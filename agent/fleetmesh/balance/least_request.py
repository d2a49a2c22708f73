"""The least busy of a few that are drawn by chance."""

from __future__ import annotations

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import mixed
from fleetmesh.balance.random import Random


class LeastRequest:
    """`choice_count` endpoints are drawn by their weights; the one with the fewest requests under
    way for its weight wins, of equals the first drawn."""

    __slots__ = ("_active", "_count", "_draw", "_weights")

    def __init__(self, choices: Choices) -> None:
        self._active = choices.active
        self._count = max(choices.balancing.choice_count, 1)
        self._draw = Random(choices)
        self._weights = choices.weights

    def pick(self, number: int, now: float) -> int:
        best = self._draw.pick(number, now)
        least = self._active(best) / self._weights[best]
        for _ in range(self._count - 1):
            number = mixed(number)
            other = self._draw.pick(number, now)
            load = self._active(other) / self._weights[other]
            if load < least:
                best, least = other, load
        return best
