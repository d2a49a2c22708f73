"""Buckets of rates in memory that a host's workers share.

A bucket of the generic cell rate algorithm is one number, the time at which it is full again, so no
lock is needed: two workers that take of one at the very same moment count one request for two. The
clock is the host's monotonic one, which is the same in all processes. A bucket that is full is as
good as none: its place is free for another.
"""

from __future__ import annotations

from typing import Final

from fleetmesh.balance.hashing import digest

PLACES: Final = 16384
BYTES: Final = PLACES * 16
"""Of the memory: for each place the key of its bucket, then the time; zeros are no bucket."""
REACH: Final = 32
"""How many places a key may have; where all are taken its bucket is always full."""
NOWHERE: Final = -1


def key_of(name: str) -> float:
    """48 bits of a hash, which a float holds exactly; not 0."""
    return float((digest(name.encode()) >> 16) + 1)


class Buckets:
    def __init__(self, memory: memoryview) -> None:
        """`memory` has BYTES bytes."""
        self._cells = memory.cast("B").cast("d")

    def find(self, key: float, now: float) -> int:
        """The place of the bucket `key`, which is full if it was nowhere before."""
        cells = self._cells
        home = int(key) % PLACES
        free = NOWHERE
        for step in range(REACH):
            place = (home + step) % PLACES * 2
            if cells[place] == key:
                return place
            if free == NOWHERE and cells[place + 1] <= now:
                free = place
        if free != NOWHERE:
            cells[free + 1] = now
            cells[free] = key
        return free

    def has(self, place: int, key: float) -> bool:
        return place != NOWHERE and self._cells[place] == key

    def full_at(self, place: int) -> float:
        return self._cells[place + 1] if place != NOWHERE else 0.0

    def fill_at(self, place: int, when: float) -> None:
        if place != NOWHERE:
            self._cells[place + 1] = when


def alone() -> Buckets:
    """Of a process that shares with no other."""
    return Buckets(memoryview(bytearray(BYTES)))
