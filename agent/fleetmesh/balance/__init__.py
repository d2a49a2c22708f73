"""Load-balancing algorithms. One is known because it is named here."""

from __future__ import annotations

from typing import Protocol

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.least_request import LeastRequest
from fleetmesh.balance.maglev import Maglev
from fleetmesh.balance.random import Random
from fleetmesh.balance.ring_hash import RingHash
from fleetmesh.balance.round_robin import RoundRobin


class Picker(Protocol):
    """Chooses among endpoints, one at least."""

    def __init__(self, choices: Choices) -> None: ...

    def pick(self, number: int) -> int:
        """The index of the endpoint for the next request. `number` has 64 bits, random or a hash
        of the request: the same leads to the same endpoint where an algorithm hashes. Those in
        COUNTING do not look at it."""
        ...


DEFAULT = "round_robin"
PICKERS: dict[str, type[Picker]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_request": LeastRequest,
    "ring_hash": RingHash,
    "maglev": Maglev,
}
COUNTING = frozenset({"round_robin"})
HASHING = frozenset({"ring_hash", "maglev"})
