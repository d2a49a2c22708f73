"""The examinations of `fleetmesh check`: facts of the host in, findings out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from fleetmesh.cli.findings import Finding, Level
from fleetmesh.edge.consul_probe import Probe
from fleetmesh.edge.host import Conntrack
from fleetmesh.model.problem import Problem
from fleetmesh.model.status import Status
from fleetmesh.settings import Settings

MAX_SKEW = 5.0
CONNTRACK_HIGH = 0.75
CONNTRACK_FULL = 0.95
FILES_WANTED = 16384


def settings(found: Settings | list[Problem]) -> list[Finding]:
    if isinstance(found, Settings):
        count = len(found.services)
        noun = "service" if count == 1 else "services"
        return [Finding(Level.OK, "settings", f"valid, {count} {noun} declared")]
    return [
        Finding(Level.ERROR, "settings", f"{problem.path}: {problem.rule}", problem.remedy)
        for problem in found
    ]


def consul(address: str, probe: Probe | str) -> Iterator[Finding]:
    """`probe` is the sentence of the failure when there was no answer."""
    if isinstance(probe, str):
        yield Finding(
            Level.ERROR,
            "consul",
            f"{address} does not answer: {probe}",
            "systemctl status consul; consul.address in agent.yaml must be the local agent's",
        )
        return
    what = f"Consul {probe.version}" if probe.version else "Consul (version not shown to us)"
    yield Finding(Level.OK, "consul", f"{what} answers at {address}")
    if probe.leader:
        yield Finding(Level.OK, "consul", f"its cluster has a leader, {probe.leader}")
    else:
        yield Finding(
            Level.ERROR, "consul", "its cluster has no leader", "Look at the Consul servers"
        )
    if probe.token_accepted is False:
        yield Finding(
            Level.ERROR,
            "token",
            "Consul does not accept it",
            "Put a valid one into consul.token_file and run fleetmesh reload",
        )
    elif probe.token_accepted:
        yield Finding(Level.OK, "token", "Consul accepts it")
    else:
        yield Finding(Level.OK, "token", "none is needed or none is set")
    yield _clock(probe.skew)


def _clock(skew: float | None) -> Finding:
    if skew is None:
        return Finding(Level.SKIPPED, "clock", "Consul does not tell its time")
    if abs(skew) <= MAX_SKEW:
        return Finding(Level.OK, "clock", "agrees with Consul's")
    ahead = "ahead of" if skew < 0 else "behind"
    return Finding(
        Level.WARNING, "clock", f"{abs(skew):.0f} s {ahead} Consul's", "Set up time synchronisation"
    )


def sockets(
    wanted: Settings,
    status: Status,
    listeners: Mapping[int, set[int]],
    ours: set[int] | None,
) -> Iterator[Finding]:
    """Every port that the agent should listen on is open, and the agent's own."""
    expected = {
        wanted.ports.plain: "plain",
        int(wanted.metrics_address.rpartition(":")[2]): "metrics",
    }
    for service in status.services:
        expected[service.sidecar_port] = f"sidecar of {service.name}"
        if service.outbound_port is not None:
            expected[service.outbound_port] = f"outbound of {service.name}"
    good = 0
    for port, purpose in sorted(expected.items()):
        inodes = listeners.get(port, set())
        if not inodes:
            yield Finding(
                Level.ERROR,
                "sockets",
                f"nobody listens on {port} ({purpose})",
                "journalctl -u fleetmesh-agent tells why",
            )
        elif ours is not None and not inodes <= ours:
            yield Finding(
                Level.ERROR,
                "sockets",
                f"{port} ({purpose}) is open in another process",
                f"ss -ltnp 'sport = :{port}' names it",
            )
        else:
            good += 1
    if ours is None:
        yield Finding(Level.SKIPPED, "sockets", "whose they are, only root can see")
    if good == len(expected):
        yield Finding(Level.OK, "sockets", f"all {good} are open")


def ports_free(wanted: Settings, listeners: Mapping[int, set[int]]) -> Iterator[Finding]:
    """While no agent runs: what would stand in its way."""
    needed = {wanted.ports.plain: "ports.plain"}
    needed[int(wanted.metrics_address.rpartition(":")[2])] = "metrics_address"
    for service in wanted.services:
        for port in (service.sidecar_port, service.outbound_port):
            if port is not None:
                needed[port] = f"service {service.name}"
    for port, owner in sorted(needed.items()):
        if port in listeners:
            yield Finding(
                Level.WARNING,
                "ports",
                f"{port} ({owner}) is in use while no agent answers",
                f"ss -ltnp 'sport = :{port}' names the user; systemd may hold it for the agent",
            )


def applications(
    wanted: Settings, status: Status, listeners: Mapping[int, set[int]]
) -> Iterator[Finding]:
    """Of those that run on this host, as far as their settings say."""
    own = {None, wanted.address, wanted.address6}
    here = {
        service.name
        for service in wanted.services
        if service.address in own or ipaddress.ip_address(service.address).is_loopback
    }
    for service in status.services:
        if service.name in here and service.port not in listeners:
            yield Finding(
                Level.WARNING,
                f"service {service.name}",
                f"its application does not listen on {service.port}",
                "Start it, or correct port in its file",
            )


def files(limit: int | None) -> Finding:
    if limit is None:
        return Finding(Level.SKIPPED, "files", "the agent's limit cannot be read")
    if limit < FILES_WANTED:
        return Finding(
            Level.WARNING,
            "files",
            f"the agent may open only {limit}",
            "Raise LimitNOFILE in its unit: a relayed connection takes two",
        )
    return Finding(Level.OK, "files", f"the agent may open {limit}")


def conntrack(found: Conntrack | None) -> Finding:
    if found is None:
        return Finding(Level.SKIPPED, "conntrack", "the kernel does not show its table here")
    used = found.count / found.most if found.most else 0.0
    tells = f"{found.count} of {found.most} connections tracked"
    remedy = "Raise net.netfilter.nf_conntrack_max: a full table drops new connections"
    if used >= CONNTRACK_FULL:
        return Finding(Level.ERROR, "conntrack", tells, remedy)
    if used >= CONNTRACK_HIGH:
        return Finding(Level.WARNING, "conntrack", tells, remedy)
    return Finding(Level.OK, "conntrack", tells)


def rules(difference: tuple[str, ...]) -> Finding:
    if difference:
        return Finding(
            Level.ERROR,
            "rules",
            "the kernel's are not the wanted ones",
            "fleetmesh capture show tells the difference, fleetmesh capture apply mends it",
        )
    return Finding(Level.OK, "rules", "the kernel's are the wanted ones")


def foreign_chains(chains: tuple[str, ...] | None) -> Finding:
    """nat chains of others at our hooks: the first to translate a connection wins."""
    if chains is None:
        return Finding(Level.SKIPPED, "nat", "other tables' chains, only root can see")
    if not chains:
        return Finding(Level.OK, "nat", "no other nat chain stands at our hooks")
    return Finding(
        Level.WARNING,
        "nat",
        f"others redirect here too: {', '.join(chains)}",
        "See that they leave the services' connections alone: nft list ruleset",
    )
