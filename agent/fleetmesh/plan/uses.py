"""Which upstreams this host's services use, and so which are watched.

Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from fleetmesh.settings import Settings

BUSY = 120.0
"""One that was used within so many seconds is not let go for another one's sake."""


class Use(msgspec.Struct, frozen=True):
    """Since when, and when last."""

    first: float
    last: float


class Uses(msgspec.Struct, frozen=True):
    """By service. Those that settings declare are not among them: they are in use for ever."""

    undeclared: dict[str, Use] = {}

    def used(self, services: Iterable[str], now: float) -> Uses:
        """With `services` used now."""
        known = self.undeclared
        new = {name: Use(known[name].first if name in known else now, now) for name in services}
        return Uses({**known, **new})

    def without(self, services: Iterable[str]) -> Uses:
        gone = frozenset(services)
        return Uses({name: use for name, use in self.undeclared.items() if name not in gone})

    def idle(self, now: float, timeout: float) -> tuple[str, ...]:
        """Those that nobody has used for `timeout` seconds."""
        return tuple(name for name, use in self.undeclared.items() if now - use.last >= timeout)

    def surplus(self, cost: Callable[[str], int], room: int, now: float) -> tuple[str, ...]:
        """Those that have to go so that the rest costs no more than `room`: the least recently
        used ones; where all are busy, the newest, for it disturbs the fewest."""
        total = sum(cost(name) for name in self.undeclared)
        quiet = sorted(
            (name for name, use in self.undeclared.items() if now - use.last >= BUSY),
            key=lambda name: self.undeclared[name].last,
        )
        busy = sorted(
            self.undeclared.keys() - set(quiet),
            key=lambda name: (self.undeclared[name].first, name),
            reverse=True,
        )
        leaving = []
        for name in (*quiet, *busy):
            if total <= room:
                break
            leaving.append(name)
            total -= cost(name)
        return tuple(leaving)


def declared(settings: Settings) -> frozenset[str]:
    """What is watched whether or not it is used: the declared upstreams, and the host's own
    services, which more often than not call each other."""
    return frozenset(
        name for service in settings.services for name in (service.name, *service.upstreams)
    )
