"""Virtual addresses: Consul's where it gives one, else one that every host derives alike.

Consul counts up from 240.0.0.1; derived ones lie in 248.0.0.0/6, far from those. Which service
holds a derived address stands in Consul's KV, one key for each address, so that creating the key
(compare-and-set with 0) is the agreement. Keys are never removed. The IPv6 address has the IPv4
one in its last 32 bits: there is nothing more to agree on.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fleetmesh.model.traffic import VIRTUAL4, VIRTUAL6
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed

KV_PREFIX = "fleetmesh/virtual-ips/"
TAG = "consul-virtual"
PROBES = 64
_DERIVED = ipaddress.IPv4Network("248.0.0.0/6")


class Agreement(msgspec.Struct, frozen=True):
    """`held` is the address of each service that has one, `claims` what to write into the KV:
    (address, service). A service without a free address is in neither."""

    held: dict[str, str]
    claims: tuple[tuple[str, str], ...] = ()


def candidates(service: str) -> Iterator[str]:
    """The addresses that a service may have, best first; the same on every host."""
    start = int.from_bytes(hashlib.sha256(service.encode()).digest()[:8], "big")
    for step in range(PROBES):
        yield str(_DERIVED[(start + step) % _DERIVED.num_addresses])


def agree(services: Iterable[str], holders: Mapping[str, str]) -> Agreement:
    """`holders` are the services by the address that the KV says they hold."""
    held: dict[str, str] = {}
    claims = []
    taken = dict(holders)
    for service in sorted(set(services)):
        mine = [address for address in candidates(service) if holders.get(address) == service]
        free = (address for address in candidates(service) if address not in taken)
        if mine:
            held[service] = mine[0]
        elif (address := next(free, None)) is not None:
            taken[address] = service
            claims.append((address, service))
    return Agreement(held, tuple(claims))


def assigned(observed: Observed) -> dict[str, str]:
    """The addresses that Consul itself gave (1.11 and later), by service."""
    found = {}
    for query, instances in observed.instances.items():
        if query != InstanceQuery(query.service):
            continue
        for instance in instances:
            tagged = (instance.service.tagged_addresses or {}).get(TAG)
            if tagged is not None and _valid(tagged.address):
                found[query.service] = tagged.address
                break
    return found


def both(address: str) -> tuple[str, ...]:
    """An IPv4 address of a service with its IPv6 address."""
    return address, str(ipaddress.IPv6Network(VIRTUAL6)[int(ipaddress.IPv4Address(address))])


def first_of(address: str) -> str | None:
    """The IPv4 address of the pair that `both` makes; None for one of no pair."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if ip in ipaddress.ip_network(VIRTUAL6):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return str(ip) if ip in ipaddress.ip_network(VIRTUAL4) else None


def _valid(address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(VIRTUAL4)
    except ValueError:
        return False


def choose(
    services: Iterable[str],
    given: Mapping[str, str],
    holders: Mapping[str, str],
    before: Mapping[str, str],
    agreeing: bool,
) -> dict[str, str]:
    """The address of each service: `given` by Consul, held by the KV, the one `before`, and where
    nobody is `agreeing` the one that its name gives. Never one that another service has."""
    wanted = set(services)
    chosen = {service: given[service] for service in sorted(wanted) if service in given}
    held = agree(wanted - chosen.keys(), holders).held
    chosen.update(held)
    taken = {**dict.fromkeys(holders, ""), **{a: s for s, a in chosen.items()}}
    for service in sorted(wanted - chosen.keys()):
        address = before.get(service)
        if address is not None and address not in taken:
            chosen[service] = address
            taken[address] = service
    if not agreeing:
        chosen.update({s: address for address, s in agree(wanted - chosen.keys(), taken).claims})
    return chosen
