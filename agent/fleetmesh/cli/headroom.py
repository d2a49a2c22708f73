"""What of a host may run out: findings before it does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from fleetmesh.cli.findings import Finding, Level
from fleetmesh.edge.host import Dialled, Files, Tuning
from fleetmesh.model.status import Status
from fleetmesh.settings import Settings

HIGH = 0.8
FULL = 0.95
BACKLOG = 4096
"""What listeners ask for, process.sockets."""
ROLE = "role fleetmesh_agent sets it (fleetmesh_agent_tune_host)"


def _level(used: float) -> Level:
    if used >= FULL:
        return Level.ERROR
    return Level.WARNING if used >= HIGH else Level.OK


def files(workers: Iterable[Files | None]) -> Finding:
    """The worker that is nearest to its limit."""
    known = [one for one in workers if one is not None and one.most]
    if not known:
        return Finding(Level.SKIPPED, "files", "how many workers have open, only root can see")
    worst = max(known, key=lambda one: one.count / one.most)
    return Finding(
        _level(worst.count / worst.most),
        "files",
        f"worker {worst.pid} has {worst.count} of {worst.most} open",
        "Raise fleetmesh_agent_open_files (LimitNOFILE of the unit), or workers: a relayed "
        "connection takes two",
    )


def dialled(found: Dialled | None) -> Finding:
    """Ports of connections to one destination: each takes one, ended ones for a minute more."""
    if found is None or not found.range:
        return Finding(Level.SKIPPED, "ephemeral ports", "the kernel does not show them here")
    return Finding(
        _level(found.most / found.range),
        "ephemeral ports",
        f"{found.most} of {found.range} in use to {found.destination or 'any one destination'}",
        "Widen net.ipv4.ip_local_port_range (fleetmesh_agent_ephemeral_ports), or let the "
        "application keep its connections",
    )


def tuning(found: Tuning, wanted: Settings, status: Status) -> Iterator[Finding]:
    """Values that make a host run out sooner than it must."""
    if found.somaxconn is not None and found.somaxconn < BACKLOG:
        yield Finding(
            Level.WARNING,
            "listeners",
            f"net.core.somaxconn is {found.somaxconn}, so that fewer than {BACKLOG} connections "
            "can wait while the agent restarts",
            f"Raise it: {ROLE}",
        )
    loose = sorted(own_ports(wanted, status) & set(found.ephemeral) - set(found.reserved))
    if loose:
        shown = ", ".join(map(str, loose[:5])) + (", …" if len(loose) > 5 else "")
        yield Finding(
            Level.WARNING,
            "ephemeral ports",
            f"the agent's {shown} may be taken for the near end of a connection",
            f"Name them in net.ipv4.ip_local_reserved_ports: {ROLE}",
        )


def own_ports(wanted: Settings, status: Status) -> set[int]:
    """Every port that the agent listens on, or may after the next declaration of a service."""
    ranges: Collection[tuple[int, int]] = (wanted.ports.outbound, wanted.ports.sidecar)
    found = {port for first, last in ranges for port in range(first, last + 1)}
    found |= {wanted.ports.plain, wanted.dns.port}
    found.add(int(wanted.metrics_address.rpartition(":")[2]))
    for service in status.services:
        found.add(service.sidecar_port)
        if service.outbound_port is not None:
            found.add(service.outbound_port)
    return found
