"""Consistent hashing on a ring: an endpoint that comes or goes moves only its own share."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import digest

LARGEST: Final = 1 << 16  # points; a million take a worker's second


class RingHash:
    """Points in proportion to the weights, at least `minimum_ring_size` altogether if
    `maximum_ring_size` and LARGEST allow, and one for each endpoint. O(log n) a pick."""

    __slots__ = ("_owners", "_points")

    def __init__(self, choices: Choices) -> None:
        balancing = choices.balancing
        most = max(min(balancing.maximum_ring_size, LARGEST), 1)
        least = max(min(balancing.minimum_ring_size, most), 1)
        total, lightest = sum(choices.weights), min(choices.weights)
        # As many whole points for the lightest as make a ring of the least size.
        each = math.ceil(least * lightest / total) / lightest
        each = min(each, most / total)
        ring: list[tuple[int, int]] = []
        for index, (name, weight) in enumerate(zip(choices.ids, choices.weights, strict=True)):
            ring += [
                (digest(f"{name}_{point}".encode()), index)
                for point in range(max(round(each * weight), 1))
            ]
        ring.sort()
        self._points = [point for point, _ in ring]
        self._owners = [owner for _, owner in ring]

    def pick(self, number: int, now: float) -> int:
        """The first point from there on, around the ring."""
        at = bisect_left(self._points, number)
        return self._owners[at] if at < len(self._owners) else self._owners[0]
