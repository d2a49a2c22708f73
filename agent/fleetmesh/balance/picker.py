"""What every load-balancing algorithm does."""

from __future__ import annotations

from typing import Protocol

from fleetmesh.balance.choices import Choices


class Picker(Protocol):
    """Chooses among endpoints, one at least."""

    def __init__(self, choices: Choices) -> None: ...

    def pick(self, number: int, now: float) -> int:
        """The index of the endpoint for the next request. `number` has 64 bits, random or a hash
        of the request: the same leads to the same endpoint where an algorithm hashes. Those in
        COUNTING do not look at it. `now` is in seconds of the clock that latencies are told by."""
        ...
