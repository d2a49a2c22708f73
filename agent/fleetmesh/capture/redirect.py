"""Capture by `redirect` in nat chains: works on every kernel since 4.18, on both families, and
leaves the original destination for SO_ORIGINAL_DST.

Only the packet that opens a TCP connection is ever redirected, so a session that was there before
the rules stays as it is. Nothing on the way to loopback is captured, nor anything from or to an
SSH port; the agent's own connections are let go before any service's user is looked at. The one
exception are the services' DNS queries, which go to loopback on many hosts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fleetmesh.capture.ruleset import (
    Accept,
    Captured,
    Chain,
    Destination,
    Hook,
    Kind,
    LocalAddress,
    Loopback,
    Match,
    Opening,
    Port,
    Redirect,
    Reject,
    Rule,
    Ruleset,
    Tcp,
    Udp,
    User,
)
from fleetmesh.settings import OnStop, Settings

NAT_PRIORITY = -100  # where every destination nat belongs (NF_IP_PRI_NAT_DST)
FILTER_PRIORITY = 0
DNS_PORT = 53
LOOPBACK = ("127.0.0.0/8", "::1/128")


class Service(msgspec.Struct, frozen=True):
    """A local service as capture sees it.

    `port` is the application's. `uid` and `outbound_port` are None for a service that makes no
    connections of its own. `stays_closed`: what it was captured for is refused, not let through,
    while no agent runs.
    """

    name: str
    port: int
    uid: int | None = None
    outbound_port: int | None = None
    stays_closed: bool = False


class Inputs(msgspec.Struct, frozen=True):
    """All that decides the rules. `agent_uid` is the user whose connections are never captured,
    `plain_port` where plain inbound connections go, `dns_port` where services' DNS queries do,
    None when nobody answers there. `suspended`: nothing new is captured for now."""

    services: tuple[Service, ...] = ()
    plain_port: int = 15006
    agent_uid: int | None = None
    exclude_ports: tuple[int, ...] = ()
    exclude_cidrs: tuple[str, ...] = ()
    exclude_inbound_ports: tuple[int, ...] = ()
    ssh_ports: tuple[int, ...] = (22,)
    dns_port: int | None = None
    suspended: bool = False


def inputs(
    settings: Settings,
    outbound_ports: Mapping[str, int],
    uids: Mapping[str, int],
    agent_uid: int,
    dns_port: int | None = None,
) -> Inputs:
    """`outbound_ports` and `uids` by service name; services without either are only called.

    With capture disabled there are no services, hence no rules.
    """
    return Inputs(
        services=tuple(
            Service(
                name=service.name,
                port=service.port,
                uid=uids.get(service.name),
                outbound_port=outbound_ports.get(service.name),
                stays_closed=settings.on_stop_of(service) is OnStop.CLOSED,
            )
            for service in settings.services
            if settings.capture.enabled
        ),
        plain_port=settings.ports.plain,
        agent_uid=agent_uid,
        exclude_ports=settings.capture.exclude_ports,
        exclude_cidrs=settings.capture.exclude_cidrs,
        exclude_inbound_ports=settings.capture.exclude_inbound_ports,
        ssh_ports=settings.capture.ssh_ports,
        dns_port=dns_port,
    )


def ruleset(given: Inputs) -> Ruleset:
    """The rules while the agent runs. Where it is suspended the nat chains stay, without rules: the
    kernel translates the connections of before no longer once there is none."""
    if not given.services:
        return Ruleset()
    sockets = [(given.plain_port, "plain")]
    sockets += [(port, service.name) for service, _, port in _callers(given)]
    return Ruleset(
        (
            _filter(
                Hook.INPUT,
                _established(),
                *(
                    Rule((Port(port), Captured(negated=True)), Reject(), f"{name}: not captured")
                    for port, name in sockets
                ),
            ),
            *_redirects(given),
        )
    )


def _redirects(given: Inputs) -> tuple[Chain, Chain]:
    if given.suspended:
        return _nat(Hook.OUTPUT), _nat(Hook.PREROUTING)
    return (
        _nat(
            Hook.OUTPUT,
            *_exempt_outbound(given, *_queries(given)),
            *(
                Rule((Tcp(), User(uid)), Redirect(port), service.name)
                for service, uid, port in _callers(given)
            ),
        ),
        _nat(
            Hook.PREROUTING,
            *_exempt_inbound(given),
            *(
                Rule((Port(service.port),), Redirect(given.plain_port), service.name)
                for service in _called(given)
            ),
        ),
    )


def closed(given: Inputs) -> Ruleset:
    """The rules while the agent is stopped for good: services that are to stay closed reach
    nothing and are reached by nothing but loopback; the others are free."""
    kept = tuple(service for service in given.services if service.stays_closed)
    if not kept:
        return Ruleset()
    given = msgspec.structs.replace(given, services=kept)
    return Ruleset(
        (
            _filter(
                Hook.INPUT,
                *_exempt_inbound(given),
                *(
                    Rule((Port(service.port),), Reject(), f"{service.name}: agent stopped")
                    for service in _called(given)
                ),
            ),
            _filter(
                Hook.OUTPUT,
                *_exempt_outbound(given),
                *(
                    Rule((Tcp(), User(uid)), Reject(), f"{service.name}: agent stopped")
                    for service, uid, _ in _callers(given)
                ),
            ),
        )
    )


def still_served(before: Inputs, now: Inputs) -> Inputs:
    """What of `before` can be captured again now: services that have the same user and ports
    still, so that their sockets are open. The rest of `before` holds."""
    served = {_ways(service) for service in now.services}
    kept = tuple(service for service in before.services if _ways(service) in served)
    return msgspec.structs.replace(
        before,
        services=kept,
        plain_port=now.plain_port,
        dns_port=None if before.dns_port is None else now.dns_port,
    )


def _ways(service: Service) -> Service:
    return msgspec.structs.replace(service, stays_closed=False)


def _nat(hook: Hook, *rules: Rule) -> Chain:
    return Chain(hook.name.lower(), Kind.NAT, hook, NAT_PRIORITY, rules)


def _filter(hook: Hook, *rules: Rule) -> Chain:
    return Chain(hook.name.lower(), Kind.FILTER, hook, FILTER_PRIORITY, rules)


def _callers(given: Inputs) -> Iterator[tuple[Service, int, int]]:
    """(service, uid, outbound port) of those that have a user of their own."""
    for service in given.services:
        if service.uid is not None and service.outbound_port is not None:
            yield service, service.uid, service.outbound_port


def _called(given: Inputs) -> Iterator[Service]:
    left_alone = {*given.ssh_ports, *given.exclude_inbound_ports}
    return (service for service in given.services if service.port not in left_alone)


def _established() -> Rule:
    return Rule((Opening(negated=True),), Accept(), "established sessions")


def _queries(given: Inputs) -> Iterator[Rule]:
    """DNS of the services' users, over UDP and TCP, wherever it goes."""
    if given.dns_port is None or DNS_PORT in (*given.exclude_ports, *given.ssh_ports):
        return
    for service, uid, _ in _callers(given):
        for port in (Udp(DNS_PORT), Port(DNS_PORT)):
            yield Rule((port, User(uid)), Redirect(given.dns_port), f"{service.name}: DNS")


def _exempt_outbound(given: Inputs, *before_loopback: Rule) -> Iterator[Rule]:
    yield _established()
    if given.agent_uid is not None:
        yield _let_go((User(given.agent_uid),), "the agent itself")
    yield from _exempt_ssh(given.ssh_ports)
    for cidr in given.exclude_cidrs:
        network = str(ipaddress.ip_network(cidr, strict=False))
        yield _let_go((Destination(network),), "excluded")
    yield from before_loopback
    for network in LOOPBACK:
        yield _let_go((Destination(network),), "loopback")
    for port in given.exclude_ports:
        yield _let_go((Port(port),), "excluded")


def _exempt_inbound(given: Inputs) -> Iterator[Rule]:
    yield _established()
    yield _let_go((Loopback(),), "loopback")
    yield _let_go((LocalAddress(negated=True),), "to other hosts")
    yield from _exempt_ssh(given.ssh_ports)


def _exempt_ssh(ports: Iterable[int]) -> Iterator[Rule]:
    return (_let_go((Port(port),), "SSH") for port in ports)


def _let_go(matches: tuple[Match, ...], why: str) -> Rule:
    return Rule(matches, Accept(), why)
