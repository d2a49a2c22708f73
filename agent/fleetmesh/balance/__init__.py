"""Load-balancing algorithms. One is known because it is named here."""

from __future__ import annotations

from typing import Protocol

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.least_request import LeastRequest
from fleetmesh.balance.maglev import Maglev
from fleetmesh.balance.peak_ewma import PeakEwma
from fleetmesh.balance.random import Random
from fleetmesh.balance.ring_hash import RingHash
from fleetmesh.balance.round_robin import RoundRobin


class Picker(Protocol):
    """Chooses among endpoints, one at least."""

    def __init__(self, choices: Choices) -> None: ...

    def pick(self, number: int, now: float) -> int:
        """The index of the endpoint for the next request. `number` has 64 bits, random or a hash
        of the request: the same leads to the same endpoint where an algorithm hashes. Those in
        COUNTING do not look at it. `now` is in seconds of the clock that latencies are told by."""
        ...


DEFAULT = "peak_ewma"
PICKERS: dict[str, type[Picker]] = {
    "peak_ewma": PeakEwma,
    "round_robin": RoundRobin,
    "random": Random,
    "least_request": LeastRequest,
    "ring_hash": RingHash,
    "maglev": Maglev,
}
COUNTING = frozenset({"round_robin"})
HASHING = frozenset({"ring_hash", "maglev"})
