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
    way, `latencies` how long they take to answer, `zones` where they are (none: nobody knows).
    `offset` is any number, different from worker to worker, so that not all begin alike."""

    __slots__ = ("active", "balancing", "ids", "latencies", "offset", "weights", "zones")

    def __init__(
        self,
        ids: Sequence[str],
        weights: Sequence[int],
        offset: int = 0,
        balancing: Balancing = EVENLY,
        active: Callable[[int], int] = _idle,
        latencies: Sequence[Latency] | None = None,
        zones: Sequence[str] = (),
    ) -> None:
        self.ids = tuple(ids)
        self.weights = tuple(weights)
        self.offset = offset
        self.balancing = balancing
        self.active = active
        self.latencies = tuple(latencies or [Latency() for _ in self.ids])
        self.zones = tuple(zones)

    def of(self, indexes: Sequence[int]) -> Choices:
        """These alone, by indexes of their own."""
        return Choices(
            [self.ids[at] for at in indexes],
            [self.weights[at] for at in indexes],
            self.offset,
            self.balancing,
            _Some(self.active, indexes),
            [self.latencies[at] for at in indexes],
        )


class _Some:
    """How busy some of the endpoints are, by their place among those."""

    __slots__ = ("_active", "_indexes")

    def __init__(self, active: Callable[[int], int], indexes: Sequence[int]) -> None:
        self._active = active
        self._indexes = tuple(indexes)

    def __call__(self, index: int) -> int:
        return self._active(self._indexes[index])
