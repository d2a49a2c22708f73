"""Desired against observed registrations → what to do, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from fleetmesh.plan.adoption import is_ours
from fleetmesh.plan.answers import AgentChecks, AgentServices, ServiceInstance
from fleetmesh.plan.holds import MAINTENANCE_CHECK, NOTES, foreign_maintenance
from fleetmesh.plan.registration import DIGEST, Registration


class Register(msgspec.Struct, frozen=True):
    registration: Registration


class Deregister(msgspec.Struct, frozen=True):
    id: str


Action = Register | Deregister


def actions(
    wanted: Iterable[Registration],
    registered: AgentServices,
    checks: AgentChecks,
    ready: frozenset[str],
) -> tuple[Action, ...]:
    """Registrations first, a sidecar only when its service is in `ready` (workers serve its
    certificate: nobody is told to dial one that cannot answer); then what is ours and no longer
    wanted goes, sidecars before their services."""
    wanted = tuple(wanted)
    register = [
        Register(_in_maintenance(registration, checks))
        for registration in wanted
        if (registration.heartbeat is None or registration.service in ready)
        and not _current(registration, registered, checks)
    ]
    keep = {registration.id for registration in wanted}
    stale = [
        service for service in registered.values() if is_ours(service) and service.id not in keep
    ]
    stale.sort(key=lambda service: (service.kind == "", service.id))
    return (*register, *(Deregister(service.id) for service in stale))


def _current(
    registration: Registration,
    registered: Mapping[str, ServiceInstance],
    checks: AgentChecks,
) -> bool:
    """Whether Consul has it unaltered. The digest covers all of it, as we wrote it; name, port,
    address and the checks are compared too, because others can write. Checks that others added
    are theirs."""
    there = registered.get(registration.id)
    if there is None:
        return False
    body = registration.body
    return (
        (there.meta or {}).get(DIGEST) == registration.digest
        and there.name == body["Name"]
        and there.port == body["Port"]
        and there.address == body["Address"]
        and all(
            (check := checks.get(check_id)) is not None and check.service_id == registration.id
            for check_id in registration.checks
        )
    )


def stands_in_the_way(action: Action, registered: AgentServices, checks: AgentChecks) -> str:
    """Why an action must not be taken, empty where nothing is against it: Consul has each check id
    once, and registering takes it away from whoever has it."""
    if isinstance(action, Deregister):
        return ""
    for check_id in sorted(action.registration.checks):
        check = checks.get(check_id)
        if check is None or check.service_id == action.registration.id:
            continue
        owner = registered.get(check.service_id)
        if owner is None or not is_ours(owner):
            whose = f"service {check.service_id}" if check.service_id else "the node"
            return f'check ID "{check_id}" is that of another tool, for {whose}'
    return ""


def _in_maintenance(registration: Registration, checks: AgentChecks) -> Registration:
    """Registering removes the checks that are not named, and so would end the maintenance that
    somebody began with `consul maint`."""
    check_id = f"{MAINTENANCE_CHECK}{registration.id}"
    there = checks.get(check_id)
    if there is None or there.notes.startswith(NOTES) or check_id in registration.checks:
        return registration
    kept = foreign_maintenance(registration.id, there.notes)
    body = {**registration.body, "Checks": [*registration.body["Checks"], kept]}
    return replace(registration, body=body)
