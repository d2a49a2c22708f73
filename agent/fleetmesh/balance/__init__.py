"""Load-balancing algorithms. One is known because it is named here."""

from __future__ import annotations

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.least_request import LeastRequest
from fleetmesh.balance.maglev import Maglev
from fleetmesh.balance.peak_ewma import PeakEwma
from fleetmesh.balance.picker import Picker
from fleetmesh.balance.random import Random
from fleetmesh.balance.ring_hash import RingHash
from fleetmesh.balance.round_robin import RoundRobin
from fleetmesh.balance.zonal import Zonal

__all__ = ["COUNTING", "DEFAULT", "HASHING", "PICKERS", "Picker", "picker_of"]

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


def picker_of(policy: str, choices: Choices) -> Picker:
    """By its name in PICKERS; where a zone is to be preferred, within it. A hash knows no zones:
    the same request is to lead to the same endpoint, wherever it comes from."""
    algorithm = PICKERS[policy]
    zone = choices.balancing.local_zone
    if zone and policy not in HASHING:
        within = [at for at, other in enumerate(choices.zones) if other == zone]
        if 0 < len(within) < len(choices.ids):
            return Zonal(choices, within, algorithm)
    return algorithm(choices)
