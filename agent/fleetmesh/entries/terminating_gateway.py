"""terminating-gateway: services outside the mesh that the mesh may call."""

from __future__ import annotations

from fleetmesh.entries.shape import Entry, EntryKind, Shape, Text
from fleetmesh.settings.decode import Reader, joined


class LinkedService(Shape, frozen=True):
    name: Text
    namespace: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sni: str = ""
    disable_auto_host_rewrite: bool = False


class TerminatingGateway(Entry, frozen=True):
    services: tuple[LinkedService, ...] = ()


def check(entry: TerminatingGateway, reader: Reader, key: str) -> None:
    seen: set[str] = set()
    for index, service in enumerate(entry.services):
        place = f"{joined(key, 'Services')}[{index}]"
        if service.name in seen:
            reader.problem(place, f'repeats the service "{service.name}"', "Keep one")
        seen.add(service.name)
        if bool(service.cert_file) != bool(service.key_file):
            reader.problem(place, "has one of CertFile and KeyFile", "Set both or neither")
        if service.cert_file and not service.ca_file:
            reader.problem(place, "has CertFile without CAFile", "Add CAFile")


KIND = EntryKind("terminating-gateway", TerminatingGateway, check)
