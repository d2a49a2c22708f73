"""The slow end of an endpoint's answers: a p90 that costs an addition per answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

UNITS: Final = 1024.0  # of which a second has so many
OCTAVES: Final = 24  # each as long as all before it: up to two hours
SHARE: Final = 0.9


class Tail:
    """Counts of one interval by octave of time; nothing is kept before the first answer."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: list[int] = []

    def observe(self, seconds: float) -> None:
        if not self.counts:
            self.counts = [0] * OCTAVES
        self.counts[min(int(seconds * UNITS).bit_length(), OCTAVES - 1)] += 1

    def forget(self) -> None:
        self.counts = []


def together(tails: Iterable[Tail]) -> list[int]:
    """The counts of all of them."""
    total = [0] * OCTAVES
    for tail in tails:
        for octave, count in enumerate(tail.counts):
            total[octave] += count
    return total


def p90(counts: list[int]) -> float:
    """Seconds within which nine of ten were answered, as if each octave's were spread evenly over
    it; 0.0 of no answer."""
    left = SHARE * sum(counts)
    if left <= 0.0:
        return 0.0
    for octave, count in enumerate(counts):
        if count >= left:
            low = (1 << octave) >> 1
            return (low + ((1 << octave) - low) * left / count) / UNITS
        left -= count
    return 0.0
