"""What an application dials → the upstream that gets it, as a worker finds it."""

from __future__ import annotations

from fleetmesh.core.entry import UpstreamEntry
from fleetmesh.core.table import Table
from fleetmesh.model.explanation import Found, How, Question
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.addresses import canonical
from fleetmesh.plan.names import named, parse

SERVICE = ".service.consul"


def find(table: Table, question: Question) -> tuple[Found, UpstreamEntry | None]:
    address = canonical(question.host)
    if question.service:
        entry = table.upstreams.get(question.service)
        found = Found(How.SERVICE, question.service) if entry else Found(How.NOTHING)
    elif address is not None:
        found, entry = _by_address(table, address, question.port)
    else:
        found, entry = _by_name(table, question.host, question.port)
    return found, entry


def _by_address(table: Table, address: str, port: int) -> tuple[Found, UpstreamEntry | None]:
    entry = table.by_destination.get((address, port))
    if entry is not None:
        return Found(How.ADDRESS, entry.upstream.service), entry
    entry = table.by_address.get(address)
    if entry is not None:
        return Found(How.VIRTUAL_ADDRESS, entry.upstream.service), entry
    note = f"no service of the mesh has {address} port {port}"
    others = sorted({str(number) for at, number in table.by_destination if at == address})
    if others:
        note += f"; at that address the mesh has port {', '.join(others)}"
    return Found(How.NOTHING, note=note), None


def _by_name(table: Table, name: str, port: int) -> tuple[Found, UpstreamEntry | None]:
    name = name.lower().rstrip(".")
    if name.endswith(SERVICE):
        return _by_instances(table, name.removesuffix(SERVICE), port)
    service = key_of(name, table.snapshot)
    entry = table.upstreams.get(service)
    if entry is None:
        note = f"{name} names no upstream in force; look its address up and ask for that"
        return Found(How.NOTHING, note=note), None
    addresses = entry.upstream.virtual_addresses
    if service == name:
        note = "taken for a service; applications dial its address, or its name in the mesh"
        return Found(How.SERVICE, service, addresses, note), entry
    note = "" if addresses else "no virtual address is in force: an application finds no such name"
    return Found(How.NAME, service, addresses, note), entry


def _by_instances(table: Table, service: str, port: int) -> tuple[Found, UpstreamEntry | None]:
    """Consul answers such a name with the addresses of the instances."""
    entry = table.upstreams.get(service)
    ports = {number for _, number in entry.upstream.destinations} if entry else set()
    if entry is None or port not in ports:
        listening = f", which listens on {', '.join(map(str, sorted(ports)))}" if ports else ""
        note = f"no address of {service}{listening} has port {port}"
        return Found(How.NOTHING, note=note), None
    note = "Consul answers the name with the addresses of its instances"
    return Found(How.ADDRESS, service, note=note), entry


def key_of(name: str, snapshot: Snapshot) -> str:
    """The upstream that a name in the mesh stands for; any other name is a service's itself."""
    name = name.lower().rstrip(".")
    datacenters = {named(upstream.service).datacenter for upstream in snapshot.upstreams}
    meant = parse(tuple(name.split(".")), datacenters | {snapshot.datacenter})
    return name if meant is None else meant.key(snapshot.datacenter)
