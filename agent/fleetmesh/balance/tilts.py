"""Keeps shares at the weights although requests under way decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

STEP: Final = 0.1
MOST: Final = 0.45
"""Below a half: between endpoints of one weight a request under way outweighs every tilt."""


class Tilts:
    """How many requests each endpoint is taken to have under way beside those it has.

    An endpoint is drawn by its weight; that another is preferred to it for being less busy bends
    the shares, since a heavy one is busy more often than a light one. So whoever is preferred seems
    a little busier from then on, and whoever was passed over a little less so: in the long run each
    is preferred as often as it is passed over. Where all weigh the same nothing is bent, and who is
    busy more often is slow: there nobody is tilted."""

    __slots__ = ("_step", "of")

    def __init__(self, weights: Sequence[int]) -> None:
        self.of = [0.0] * len(weights)
        self._step = STEP if min(weights) < max(weights) else 0.0

    def prefer(self, other: int, first: int) -> None:
        """`first` was drawn and `other` is chosen."""
        of, step = self.of, self._step
        of[other] = min(of[other] + step, MOST)
        of[first] = max(of[first] - step, -MOST)
