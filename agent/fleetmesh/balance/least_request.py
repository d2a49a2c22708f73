"""The least busy of a few that are drawn by chance."""

from __future__ import annotations

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import mixed
from fleetmesh.balance.random import Random
from fleetmesh.balance.tilts import Tilts


class LeastRequest:
    """`choice_count` endpoints are drawn by their weights; the one with the fewest requests under
    way for its weight wins, of equals the first drawn. `Tilts` keep the shares at the weights."""

    __slots__ = ("_active", "_count", "_draw", "_tilts", "_weights")

    def __init__(self, choices: Choices) -> None:
        self._active = choices.active
        self._count = max(choices.balancing.choice_count, 1)
        self._draw = Random(choices)
        self._weights = choices.weights
        self._tilts = Tilts(choices.weights)

    def pick(self, number: int, now: float) -> int:
        weights, tilts = self._weights, self._tilts.of
        first = best = self._draw.pick(number, now)
        least = (self._active(best) + tilts[best]) / weights[best]
        for _ in range(self._count - 1):
            number = mixed(number)
            other = self._draw.pick(number, now)
            load = (self._active(other) + tilts[other]) / weights[other]
            if load < least:
                best, least = other, load
        if best != first:
            self._tilts.prefer(best, first)
        return best
