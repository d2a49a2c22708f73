"""The better of two that are drawn by chance, by latency and by requests under way."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Final

from fleetmesh.balance.choices import Choices

NOISE: Final = 1.5
"""Latencies within this factor are alike: a peak-EWMA of equals differs by as much, and whoever
preferred the least of them would leave the others without a request while there is little to do."""


class PeakEwma:
    """Two different endpoints are drawn by their weights. The lower product of latency and of
    requests under way for its weight, the new one included, wins; of equals the first drawn, so
    shares follow the weights. An endpoint that has not answered yet is as quick as the other: it
    is neither flooded nor left out, whatever its service takes."""

    __slots__ = ("_active", "_bounds", "_latencies", "_scales", "_weights")

    def __init__(self, choices: Choices) -> None:
        self._active = choices.active
        self._bounds = list(accumulate(choices.weights))
        self._latencies = choices.latencies
        self._weights = choices.weights
        mean = self._bounds[-1] / len(choices.weights)
        self._scales = [mean / weight for weight in choices.weights]

    def pick(self, number: int, now: float) -> int:
        bounds = self._bounds
        total = bounds[-1]
        first = bisect_right(bounds, number % total)
        weight = self._weights[first]
        if weight == total:
            return first
        # The other is drawn from what is left when the first one's span is cut out.
        drawn = number // total % (total - weight)
        if drawn >= bounds[first] - weight:
            drawn += weight
        other = bisect_right(bounds, drawn)
        busy = 1.0 + self._active(first) * self._scales[first]
        rival = 1.0 + self._active(other) * self._scales[other]
        ours = self._latencies[first].estimate(now)
        theirs = self._latencies[other].estimate(now)
        if ours > 0.0 and theirs > 0.0 and not theirs < ours * NOISE < theirs * (NOISE * NOISE):
            busy *= ours
            rival *= theirs
        return other if rival < busy else first
