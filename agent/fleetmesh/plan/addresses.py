"""Under which addresses an instance is dialled."""

from __future__ import annotations

import ipaddress

from fleetmesh.plan.answers import Instance

Destination = tuple[str, int]
"""An address, as sockets report it, and a port."""

TAGS = ("lan_ipv4", "lan_ipv6", "consul-virtual")


def addresses(instance: Instance) -> set[str]:
    """Its own or its node's, those of its network and its virtual one, as sockets report them;
    names are none."""
    service = instance.service
    tagged = service.tagged_addresses or {}
    written = {service.address or instance.node.address}
    written.update(tagged[tag].address for tag in TAGS if tag in tagged)
    return {address for address in map(canonical, written) if address is not None}


def canonical(address: str) -> str | None:
    """The text form that sockets report; None for a name."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return None


def destinations_of(instances: tuple[Instance, ...]) -> tuple[Destination, ...]:
    """Every address of an instance with its application's port, and its virtual address."""
    found: set[Destination] = set()
    for instance in instances:
        proxy = instance.service.proxy
        if proxy is not None and proxy.local_port:
            found.update((address, proxy.local_port) for address in addresses(instance))
    return tuple(sorted(found))


def owner(instances: tuple[Instance, ...], destination: Destination) -> str | None:
    """The service that `destination` belongs to among sidecars of any services: the first by
    name, as in a snapshot."""
    found = {
        instance.service.proxy.destination
        for instance in instances
        if instance.service.proxy is not None and destination in destinations_of((instance,))
    }
    return min(found - {""}, default=None)
