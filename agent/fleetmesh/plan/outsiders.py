"""Services of the catalog that have no sidecar, where something is decided of them."""

from __future__ import annotations

from fleetmesh.model.snapshot import Outsider, Snapshot
from fleetmesh.plan.addresses import addresses
from fleetmesh.plan.observed import Observed, outsider_queries
from fleetmesh.settings import Settings


def outsiders(
    settings: Settings, observed: Observed, previous: Snapshot | None = None
) -> tuple[Outsider, ...]:
    """Those of which Consul has told an address, by name; of which it has told nothing yet, as in
    `previous`."""
    found = []
    before = {one.name: one for one in previous.outsiders} if previous is not None else {}
    for name, query in sorted(outsider_queries(settings, observed).items()):
        if query not in observed.instances and name in before:
            found.append(before[name])
            continue
        destinations = {
            (address, instance.service.port)
            for instance in observed.instances.get(query, ())
            if not instance.service.kind and instance.service.port
            for address in addresses(instance)
        }
        if destinations:
            found.append(Outsider(name, tuple(sorted(destinations))))
    return tuple(found)
