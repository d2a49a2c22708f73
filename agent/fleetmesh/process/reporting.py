"""What the controller tells of itself: status, metrics, the sentence in systemd's STATUS."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from fleetmesh import __version__
from fleetmesh.edge.metrics import Figures
from fleetmesh.model.fault import Fault
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import Ejected, Report
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.model.status import (
    CaptureStatus,
    HandshakeStatus,
    HoldStatus,
    IdentityStatus,
    ServiceStatus,
    WatchStatus,
    WorkerStatus,
)
from fleetmesh.plan.ports import Allocation
from fleetmesh.plan.renewal import judge
from fleetmesh.plan.totals import total
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.settings import ServiceSettings

SENTENCE_LENGTH = 300


def service_status(
    service: ServiceSettings,
    snapshot: Snapshot | None,
    ports: Allocation,
    uids: Mapping[str, int],
    registered: frozenset[str],
    reports: Iterable[Report],
    *,
    renewable: bool = True,
    handshake: HandshakeStatus | None = None,
    adopted: str = "",
    hold: HoldStatus | None = None,
) -> ServiceStatus:
    """`renewable`: whether Consul answers for the service's certificate."""
    local = (
        next((s for s in snapshot.services if s.name == service.name), None) if snapshot else None
    )
    return ServiceStatus(
        name=service.name,
        id=service.service_id,
        port=service.port,
        protocol=local.protocol if local else service.protocol or "",
        mode=service.mode,
        user=service.user or service.unit or "",
        uid=uids.get(service.name),
        outbound_port=ports.outbound.get(service.name),
        sidecar_port=ports.sidecar[service.name],
        registered=service.name in registered,
        identity=_identity(local, reports, renewable, handshake),
        intentions=tuple(str(i) for i in local.intentions) if local else (),
        adopted=adopted,
        hold=hold,
    )


def _identity(
    local: LocalService | None,
    reports: Iterable[Report],
    renewable: bool,
    handshake: HandshakeStatus | None,
) -> IdentityStatus:
    if local is None or local.leaf is None:
        return IdentityStatus(str(local.spiffe_id) if local else "", renewable=renewable)
    leaf = local.leaf
    return IdentityStatus(
        spiffe_id=str(local.spiffe_id),
        serial=leaf.serial,
        not_after=leaf.not_after,
        seconds_left=leaf.not_after - time.time(),
        life=leaf.not_after - leaf.not_before,
        workers=sum(
            any(s.service == local.name and s.serial == leaf.serial for s in report.served)
            for report in reports
        ),
        renewable=renewable,
        handshake=handshake,
    )


def worker_statuses(supervisor: Supervisor) -> tuple[WorkerStatus, ...]:
    return tuple(
        WorkerStatus(
            pid=worker.pid,
            generation=worker.generation,
            connections=sum(c.active for c in worker.report.connections),
            restarts=worker.restarts,
            memory=worker.memory,
            draining=worker.draining,
        )
        for worker in supervisor.workers
    )


def ejected(reports: Iterable[Report]) -> tuple[Ejected, ...]:
    """The endpoints that some worker leaves out."""
    return total(reports).ejected


def figures(
    supervisor: Supervisor,
    reports: tuple[Report, ...],
    capture: CaptureStatus,
    last_contact: float | None,
    consul_up: bool,
    *,
    dns: Mapping[tuple[str, str], int],
    watches: tuple[WatchStatus, ...] = (),
    renewals: Mapping[str, int] | None = None,
    handshakes: Mapping[str, HandshakeStatus] | None = None,
    faults: Iterable[Fault] = (),
) -> Figures:
    now = time.time()
    handshakes = handshakes or {}
    expiries: dict[str, float] = {}
    for report in reports:
        for served in report.served:
            left = served.not_after - now
            expiries[served.service] = min(left, expiries.get(served.service, left))
    for name, shown in handshakes.items():
        if shown.life:
            expiries[name] = min(shown.seconds_left, expiries.get(name, shown.seconds_left))
    return Figures(
        version=__version__,
        traffic=total(reports),
        expiries=expiries,
        generations={worker.number: worker.generation for worker in supervisor.workers},
        last_contact=last_contact,
        consul_up=consul_up,
        watches=watches,
        renewals=renewals or {},
        handshakes={name: not shown.wrong_for for name, shown in handshakes.items()},
        worker_restarts=supervisor.restarts,
        capture_applied=capture.state in {"applied", "unconfirmed"},
        bypass=capture.bypass.seconds_left if capture.bypass is not None else 0.0,
        faults=Counter((fault.service, fault.kind.value) for fault in faults),
        dns=dict(dns),
    )


def renewals(
    snapshot: Snapshot | None,
    failing: Container[str],
    handshakes: Mapping[str, HandshakeStatus],
) -> dict[str, int]:
    """By service, as `plan.renewal` numbers them: of the certificate that is served. `failing` are
    those for whose certificate Consul does not answer."""
    judged: dict[str, int] = {}
    for service in snapshot.services if snapshot else ():
        if service.leaf is not None:
            name = service.name
            left, life = _identity(service, (), True, handshakes.get(name)).served()
            judged[name] = judge(left, life, name not in failing)
    return judged


def sentence(
    snapshot: Snapshot | None,
    generation: int,
    problems: Sequence[Problem],
    consul_error: str,
    capture: str,
) -> str:
    """One line that tells an operator whether to look closer."""
    if snapshot is None:
        parts = [f"Waiting for Consul ({consul_error or 'first answers'}), nothing new is captured"]
    else:
        ready = sum(service.leaf is not None for service in snapshot.services)
        parts = [
            f"Generation {generation}",
            f"{ready} of {len(snapshot.services)} services with a certificate",
            f"{len(snapshot.upstreams)} upstreams",
            f"capture {capture}",
        ]
        if consul_error:
            parts.append(f"Consul does not answer: {consul_error}")
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        parts.append(f"{len(problems)} {noun}: {problems[0]}")
    return ", ".join(parts).replace("\n", " ")[:SENTENCE_LENGTH]
