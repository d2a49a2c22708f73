"""How many requests may be sent again: a share of those that are sent at all."""

from __future__ import annotations

from typing import Final

MOST: Final = 100.0
"""Retries that are saved up at most: a short trouble after a quiet time is helped at once."""


class Budget:
    """Of one upstream. Each request earns `share` of a retry and each second `floor` of them, so
    that few requests can be sent again, too; what is not spent is kept up to `MOST`.

    So a callee that fails everything sees 1 + `share` times its callers' demand, and not as many
    times as its routes say. The idea is of Finagle's RetryBudget. A request that is well pays
    nothing for it: what was earned is counted when it is needed.
    """

    __slots__ = ("_at", "_balance", "_counted", "_floor", "_share")

    def __init__(self, share: float, floor: float) -> None:
        self._share = share
        self._floor = floor
        self._balance = 10 * floor
        self._at = 0.0
        self._counted: dict[str, int] = {}

    def earn(self, caller: str, requests: int) -> None:
        """`caller` has had so many `requests` in all; those before the first count do not."""
        self._balance += self._share * (requests - self._counted.get(caller, requests))
        self._counted[caller] = requests

    def spend(self, now: float) -> bool:
        """Whether one may be sent again at `now` (monotonic seconds). False: not of what is known
        to be earned."""
        if self._at:
            self._balance += (now - self._at) * self._floor
        self._at = now
        self._balance = min(self._balance, MOST)
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
