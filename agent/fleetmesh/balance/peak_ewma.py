"""The better of two that are drawn by chance, by latency and by requests under way."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Final

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.tilts import Tilts

NOISE: Final = 2.0
"""Latencies within this factor are alike: a peak-EWMA of equals differs by as much, and whoever
preferred the least of them would leave the others without a request while there is little to do."""


class PeakEwma:
    """Two different endpoints are drawn by their weights. The lower product of latency and of
    requests under way for its weight, the new one included, wins; of equals the first drawn, and
    `Tilts` keep the shares of those that are as quick at the weights. An endpoint that has not
    answered yet is as quick as the other: it is neither flooded nor left out, whatever its service
    takes."""

    __slots__ = ("_active", "_bounds", "_latencies", "_scales", "_tilts", "_weights")

    def __init__(self, choices: Choices) -> None:
        self._active = choices.active
        self._bounds = list(accumulate(choices.weights))
        self._latencies = choices.latencies
        self._weights = choices.weights
        mean = self._bounds[-1] / len(choices.weights)
        self._scales = [mean / weight for weight in choices.weights]
        self._tilts = Tilts(choices.weights)

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
        scale, its_scale = self._scales[first], self._scales[other]
        busy = 1.0 + self._active(first) * scale
        # What a request weighs more for one of them than for the other must be outweighed.
        rival = 1.0 + self._active(other) * its_scale + abs(scale - its_scale)
        ours, theirs = self._latencies[first], self._latencies[other]
        # That an estimate fades makes nobody quicker than what was seen.
        quick = theirs.seconds * NOISE
        if 0.0 < quick <= ours.estimate(now):
            return other if rival * theirs.seconds < busy * ours.estimate(now) else first
        quick = ours.seconds * NOISE
        if 0.0 < quick <= theirs.estimate(now):
            return other if rival * theirs.estimate(now) < busy * ours.seconds else first
        tilts = self._tilts.of
        if rival + tilts[other] * its_scale < busy + tilts[first] * scale:
            self._tilts.prefer(other, first)
            return other
        return first
