"""Under which addresses an instance is dialled."""

from __future__ import annotations

import ipaddress

from fleetmesh.plan.answers import Instance

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
