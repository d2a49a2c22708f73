"""Services of this host that another tool registered: adopted, not fought over.

What is not marked as ours is somebody else's: it is never overwritten and never removed. Where it
is the instance that a file of ours declares too, only the sidecar is added, which follows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fleetmesh.model.problem import Problem
from fleetmesh.plan.answers import AgentServices, ServiceInstance
from fleetmesh.settings import ServiceSettings, Settings

MANAGED_BY = "managed-by"
OURS = "fleetmesh"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Adopted(msgspec.Struct, frozen=True):
    """`services` are others' registrations by the name of the service that is theirs; `taken` are
    ids that we want and others have."""

    services: Mapping[str, ServiceInstance] = {}
    taken: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


NOTHING = Adopted()


def is_ours(registered: ServiceInstance) -> bool:
    return (registered.meta or {}).get(MANAGED_BY) == OURS


def adopt(settings: Settings, registered: AgentServices) -> Adopted:
    """By the id and the name, or by the name, the port and an address of this host."""
    services: dict[str, ServiceInstance] = {}
    taken: set[str] = set()
    problems: list[Problem] = []
    others = {key: one for key, one in registered.items() if not is_ours(one)}
    for service in settings.services:
        same_id = others.get(service.service_id)
        if same_id is not None and (same_id.kind or same_id.name != service.name):
            taken |= {service.service_id, service.sidecar_id}
            problems.append(_taken(service, same_id, "Give one of the two another id"))
            continue
        theirs = same_id or _same_instance(settings, service, others)
        if theirs is not None:
            services[service.name] = theirs
            if theirs.port != service.port:
                problems.append(_other_port(service, theirs))
        sidecar = others.get(service.sidecar_id)
        if sidecar is not None:
            taken.add(service.sidecar_id)
            remedy = "Take connect.sidecar_service out of its definition, or deregister it"
            problems.append(_taken(service, sidecar, remedy))
    return Adopted(services, frozenset(taken), tuple(problems))


def _same_instance(
    settings: Settings, service: ServiceSettings, others: Mapping[str, ServiceInstance]
) -> ServiceInstance | None:
    here = {"", settings.address, settings.address6, service.address, *LOOPBACK}
    for key in sorted(others):
        one = others[key]
        same = (one.kind, one.name, one.port) == ("", service.name, service.port)
        if same and one.address in here:
            return one
    return None


def _taken(service: ServiceSettings, theirs: ServiceInstance, remedy: str) -> Problem:
    return Problem(
        service.file or service.name,
        f'ID "{theirs.id}" is in Consul as service "{theirs.name}", registered by another tool',
        remedy,
    )


def _other_port(service: ServiceSettings, theirs: ServiceInstance) -> Problem:
    return Problem(
        service.file or service.name,
        f"port is {service.port}, but another tool registered {theirs.id} with {theirs.port}",
        "Declare the port where the application listens",
    )
