"""exported-services: services that peers and other partitions may use."""

from __future__ import annotations

from fleetmesh.entries.shape import Entry, EntryKind, Shape, Text, at_most_one
from fleetmesh.settings.decode import Reader, joined


class Consumer(Shape, frozen=True):
    partition: str = ""
    peer: str = ""
    sameness_group: str = ""


class ExportedService(Shape, frozen=True):
    name: Text
    namespace: str = ""
    consumers: tuple[Consumer, ...] = ()


class ExportedServices(Entry, frozen=True):
    services: tuple[ExportedService, ...] = ()


def check(entry: ExportedServices, reader: Reader, key: str) -> None:
    for index, service in enumerate(entry.services):
        for at, consumer in enumerate(service.consumers):
            place = f"{joined(key, 'Services')}[{index}].Consumers[{at}]"
            if not at_most_one(consumer, ("partition", "peer", "sameness_group"), reader, place):
                reader.problem(place, "names nobody", "Add Peer, Partition or SamenessGroup")


KIND = EntryKind("exported-services", ExportedServices, check)
