"""Peak-EWMA: how long an endpoint takes to answer, which believes bad news at once."""

from __future__ import annotations

from math import exp
from typing import Final

DECAY: Final = 10.0
"""Seconds after which a peak counts a third (1/e): Finagle's and Linkerd's."""
FADE: Final = 5.0
"""The same where no sample comes: whoever is left out for a peak is tried again the sooner."""


class Latency:
    """Seconds until an answer begins. A peak is taken over at once; what is quicker counts by the
    time since the last. Without a sample it fades, so that whoever was slow is asked again."""

    __slots__ = ("_at", "seconds")

    def __init__(self) -> None:
        self._at = 0.0
        self.seconds = 0.0

    def observe(self, seconds: float, now: float) -> None:
        before = self.seconds
        if seconds < before:
            elapsed = now - self._at
            if elapsed > 0.0:
                seconds += (before - seconds) * exp(-elapsed / DECAY)
            else:
                seconds = before
        self.seconds = seconds
        self._at = now

    def estimate(self, now: float) -> float:
        """0.0 before the first sample. `now` may be a clock that is a little late."""
        elapsed = now - self._at
        return self.seconds if elapsed <= 0.0 else self.seconds * exp(-elapsed / FADE)
