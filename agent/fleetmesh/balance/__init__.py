"""Load-balancing algorithms. One is known because it is named here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fleetmesh.balance.round_robin import RoundRobin


class Picker(Protocol):
    """Chooses among endpoints by index. `weights` are positive, one for each endpoint;
    `offset` is any number, different from worker to worker, so that not all begin alike."""

    def __init__(self, weights: Sequence[int], offset: int) -> None: ...

    def pick(self) -> int:
        """The index of the endpoint for the next request."""
        ...


PICKERS: dict[str, type[Picker]] = {"round_robin": RoundRobin}
