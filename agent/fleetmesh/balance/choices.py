"""What a picker chooses among."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fleetmesh.balance.latency import Latency
from fleetmesh.model.traffic import Balancing

EVENLY = Balancing()


def _idle(_index: int) -> int:
    return 0


class Choices:
    """Endpoints by index: `ids` are their names, for what must not depend on their order,
    `weights` are positive, one for each. `active` says how many requests an endpoint has under
    way, `latencies` how long they take to answer. `offset` is any number, different from worker to
    worker, so that not all begin alike."""

    __slots__ = ("active", "balancing", "ids", "latencies", "offset", "weights")

    def __init__(
        self,
        ids: Sequence[str],
        weights: Sequence[int],
        offset: int = 0,
        balancing: Balancing = EVENLY,
        active: Callable[[int], int] = _idle,
        latencies: Sequence[Latency] | None = None,
    ) -> None:
        self.ids = tuple(ids)
        self.weights = tuple(weights)
        self.offset = offset
        self.balancing = balancing
        self.active = active
        self.latencies = tuple(latencies or [Latency() for _ in self.ids])
