"""What this host's workers have ejected, for those that start later."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from fleetmesh.model.report import Ejection

Key = tuple[str, float, str]


class KnownEjections:
    """Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[Key, tuple[float, Ejection]] = {}

    def learn(self, ejections: Iterable[Ejection], now: float) -> None:
        for one in ejections:
            key = (one.target, one.connect_timeout, one.endpoint)
            self._until.pop(key, None)
            if one.reason:
                self._until[key] = now + one.seconds, one
        self._until = {key: found for key, found in self._until.items() if found[0] > now}

    def current(self, now: float) -> tuple[Ejection, ...]:
        """With what is left of their time."""
        return tuple(
            replace(one, seconds=until - now) for until, one in self._until.values() if until > now
        )
