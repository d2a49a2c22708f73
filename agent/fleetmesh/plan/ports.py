"""Which ports the services of this host listen on: stable, and never two on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from fleetmesh.model.problem import Problem
from fleetmesh.settings import ServiceSettings, Settings


class Allocation(msgspec.Struct, frozen=True):
    """Service name → port. `outbound` has only services whose connections are captured."""

    outbound: dict[str, int] = {}
    sidecar: dict[str, int] = {}


def allocate(settings: Settings, previous: Allocation) -> Allocation | list[Problem]:
    """Explicit ports first, then the previous ones that are still free and in range, then the
    lowest free ones, at best none that a service had before: one that goes still listens there.
    Problems when a range is exhausted."""
    problems: list[Problem] = []
    taken = _fixed(settings)
    outbound = _draw(
        [service for service in settings.services if service.user or service.unit],
        lambda service: service.outbound_port,
        settings.ports.outbound,
        previous.outbound,
        taken,
    )
    sidecar = _draw(
        list(settings.services),
        lambda service: service.sidecar_port,
        settings.ports.sidecar,
        previous.sidecar,
        taken | set(outbound.values()),
    )
    for kind, ports in (("outbound", outbound), ("sidecar", sidecar)):
        for service in settings.services:
            if ports.get(service.name) == 0:
                first, last = getattr(settings.ports, kind)
                problems.append(
                    Problem(
                        service.file or service.name,
                        f"no port left for {kind} in {first}-{last}",
                        f"widen ports.{kind} in the agent's settings",
                    )
                )
    return problems or Allocation(outbound, sidecar)


def _fixed(settings: Settings) -> set[int]:
    taken = {settings.ports.plain, *settings.capture.ssh_ports}
    _, _, metrics_port = settings.metrics_address.rpartition(":")
    if metrics_port.isdigit():
        taken.add(int(metrics_port))
    if settings.dns.enabled:
        taken.add(settings.dns.port)
    for service in settings.services:
        taken.add(service.port)
        taken.update(port for port in (service.outbound_port, service.sidecar_port) if port)
    return taken


def _draw(
    services: list[ServiceSettings],
    explicit: Callable[[ServiceSettings], int | None],
    bounds: tuple[int, int],
    previous: Mapping[str, int],
    taken: set[int],
) -> dict[str, int]:
    """Port 0 marks a service for which none was left."""
    first, last = bounds
    ports = {s.name: port for s in services if (port := explicit(s)) is not None}
    used = taken | set(ports.values())
    for service in services:
        port = previous.get(service.name, 0)
        if service.name not in ports and first <= port <= last and port not in used:
            ports[service.name] = port
            used.add(port)
    before = set(previous.values())
    free = iter(sorted(set(range(first, last + 1)) - used, key=lambda port: (port in before, port)))
    for service in services:
        if service.name not in ports:
            ports[service.name] = next(free, 0)
    return ports
