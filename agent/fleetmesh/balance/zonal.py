"""Endpoints of the caller's zone first, those of others once they have enough to do."""

from __future__ import annotations

from collections.abc import Sequence

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import mixed
from fleetmesh.balance.picker import Picker


class Zonal:
    """One is picked within the zone. When it has `spill` requests under way, one is picked among
    the others as well, and the less busy of the two serves: a zone is left as far as its endpoints
    are full, and no further. `picker` is the algorithm, of which each side has its own."""

    __slots__ = ("_active", "_far", "_near", "_outside", "_spill", "_within")

    def __init__(self, choices: Choices, within: Sequence[int], picker: type[Picker]) -> None:
        self._active = choices.active
        self._within = list(within)
        self._outside = [at for at in range(len(choices.ids)) if at not in set(within)]
        self._near = picker(choices.of(self._within))
        self._far = picker(choices.of(self._outside))
        self._spill = choices.balancing.spill

    def pick(self, number: int, now: float) -> int:
        near = self._within[self._near.pick(number, now)]
        busy = self._active(near)
        if busy < self._spill:
            return near
        far = self._outside[self._far.pick(mixed(number), now)]
        return far if self._active(far) < busy else near
