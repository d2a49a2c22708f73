"""How many requests may be sent again: a share of those that are sent at all."""

from __future__ import annotations

from typing import Final

MOST: Final = 100.0
"""Retries that are saved up at most: a short trouble after a quiet time is helped at once."""


class Budget:
    """Of one upstream. Each request earns `share` of a retry and each second `floor` of them, so
    that few requests can be sent again, too; what is not spent is kept up to `MOST`.

    So a callee that fails everything sees 1 + `share` times its callers' demand, and not as many
    times as its routes say. The idea is of Finagle's RetryBudget.
    """

    __slots__ = ("_at", "_balance", "_floor", "_share")

    def __init__(self, share: float, floor: float) -> None:
        self._share = share
        self._floor = floor
        self._balance = 10 * floor
        self._at = 0.0

    def earn(self) -> None:
        """A request is sent for the first time."""
        self._balance += self._share

    def spend(self, now: float) -> bool:
        """Whether one may be sent again at `now` (monotonic seconds)."""
        if self._at:
            self._balance += (now - self._at) * self._floor
        self._at = now
        self._balance = min(self._balance, MOST)
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
