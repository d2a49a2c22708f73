"""Judgements on an agent's status: what somebody on call should know first."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import msgspec

from fleetmesh.model.status import CaptureStatus, HoldStatus, IdentityStatus, ServiceStatus, Status
from fleetmesh.model.traffic import Endpoint, Health, Upstream
from fleetmesh.plan.renewal import WRONG, Renewal, judge

STALE = 60.0  # seconds
UNSEEN = 60.0  # the agent looks every ten
CONTACT_IS_OLD = 360.0  # a blocking query is held for 300 s, and a sixteenth of jitter


class Level(enum.StrEnum):
    """SKIPPED could not be judged from where we stand."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True):
    """One line of `fleetmesh check`, and of the top of `fleetmesh status` unless it is ok."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


def worst(findings: Iterable[Finding]) -> Level:
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def of_status(status: Status) -> list[Finding]:
    """Everything that the status alone tells, good and bad."""
    if status.services and _unheard(status):
        names = ", ".join(service.name for service in status.services)
        services = [Finding(Level.WARNING, "services", f"{names} wait for Consul")]
    else:
        services = [found for service in status.services for found in _service(service, status)]
    return [
        *_configuration(status),
        *_release(status),
        *_overflows(status),
        _consul(status),
        *_stale(status),
        _capture(status.capture),
        *_faults(status),
        *_workers(status),
        *services,
    ]


def _unheard(status: Status) -> bool:
    """Consul has told nothing yet: one cause, and one finding for all that is missing."""
    return not status.generation and not status.consul.reachable


def _configuration(status: Status) -> Iterator[Finding]:
    for problem in status.problems:
        if problem.path.startswith("consul: ") and _unheard(status):
            continue
        yield Finding(
            Level.ERROR, "configuration", f"{problem.path}: {problem.rule}", problem.remedy
        )


def _release(status: Status) -> Iterator[Finding]:
    found = status.releases
    if found is None:
        return
    if found.fallback is not None:
        fell = found.fallback
        yield Finding(
            Level.WARNING,
            "release",
            f"{fell.failed} was given up for {fell.to}: {fell.why}",
            "journalctl -u fleetmesh-agent tells more; the next rollout, or fleetmesh release use, "
            "ends this warning",
        )
    elif found.running != found.current:
        yield Finding(
            Level.WARNING,
            "release",
            f"{found.running} runs, {found.current} is to run",
            "systemctl restart fleetmesh-agent",
        )


def _overflows(status: Status) -> Iterator[Finding]:
    if status.overflows:
        yield Finding(
            Level.WARNING,
            "listeners",
            f"{status.overflows} connections found a listener's queue full in the "
            f"{span(status.uptime)} that the agent runs",
            "ss -ltn shows the queues: too few workers, an application that does not accept, or a "
            "small net.core.somaxconn",
        )


def _consul(status: Status) -> Finding:
    consul = status.consul
    if consul.reachable and (consul.last_contact or 0.0) < CONTACT_IS_OLD:
        return Finding(Level.OK, "consul", f"the agent hears from {consul.address}")
    why = f": {consul.error}" if consul.error else ""
    if consul.last_contact is None:
        last = "has not answered so far"
    else:
        last = f"last answered {span(consul.last_contact)} ago"
    if consul.reachable:
        return Finding(Level.WARNING, "consul", f"{consul.address} {last}{why}")
    known = "the last state is served on" if status.generation else "nothing is served yet"
    return Finding(
        # Old answers carry traffic; certificates that run out are found by themselves.
        Level.WARNING if status.generation else Level.ERROR,
        "consul",
        f"{consul.address} {last}, {known}{why}",
        "Look at the local Consul agent: systemctl status consul",
    )


def _stale(status: Status) -> Iterator[Finding]:
    """Only warnings: what was known is served on."""
    old = [watch for watch in status.consul.watches if watch.stale >= STALE]
    if old and not _unheard(status):
        longest = max(old, key=lambda watch: watch.stale)
        names = ", ".join(f"{watch.watch} ({span(watch.stale)})" for watch in old)
        why = f": {longest.error}" if longest.error and not status.consul.error else ""
        yield Finding(
            Level.WARNING,
            "stale",
            f"{names}{why}",
            "What was known then is served on; look at Consul's agent and servers",
        )


def _capture(capture: CaptureStatus) -> Finding:
    again = "fleetmesh capture apply"
    if capture.error or capture.state == "failed":
        return Finding(Level.ERROR, "capture", f"the kernel refused: {capture.error}", again)
    if capture.drift:
        return Finding(
            Level.WARNING,
            "capture",
            "the rules in the kernel are not the wanted ones",
            "fleetmesh capture show tells the difference",
        )
    match capture.state:
        case "applied":
            return Finding(Level.OK, "capture", f"{capture.rules} rules in the kernel")
        case "disabled":
            return Finding(Level.OK, "capture", "nothing is to be captured")
        case "unconfirmed":
            return Finding(
                Level.WARNING,
                "capture",
                f"the rules undo themselves in {span(capture.undo_in or 0.0)}",
                "fleetmesh capture confirm",
            )
        case "bypassed" if capture.bypass is not None:
            left, what = span(capture.bypass.seconds_left), capture.bypass
            return Finding(
                Level.WARNING,
                "capture",
                f"bypassed for another {left}, by {what.by}: {what.why}",
                "fleetmesh bypass off",
            )
        case "waiting":
            return Finding(
                Level.WARNING, "capture", "no rules yet: no service can be captured so far"
            )
        case _:
            return Finding(Level.WARNING, "capture", f"no rules: {capture.state}", again)


def _faults(status: Status) -> Iterator[Finding]:
    for fault in status.faults:
        yield Finding(
            Level.WARNING,
            f"fault {fault.id}",
            f"{fault.does}, for another {span(fault.seconds_left)}, {fault.struck} so far; by "
            f"{fault.by}: {fault.why or 'no reason given'}",
            f"fleetmesh fault clear {fault.id}",
        )


def _workers(status: Status) -> Iterator[Finding]:
    serving = [worker for worker in status.workers if not worker.draining]
    if not serving:
        yield Finding(
            Level.ERROR, "workers", "none is running", "journalctl -u fleetmesh-agent tells why"
        )
        return
    behind = [worker for worker in serving if worker.generation != status.generation]
    for worker in behind:
        yield Finding(
            Level.WARNING,
            "workers",
            f"{worker.pid} serves generation {worker.generation}, not {status.generation}",
            "journalctl -u fleetmesh-agent tells why",
        )
    if not behind:
        what = f"serve generation {status.generation}" if status.generation else "wait"
        yield Finding(Level.OK, "workers", f"{len(serving)} {what}")


def _service(service: ServiceStatus, status: Status) -> Iterator[Finding]:
    subject = f"service {service.name}"
    if not service.registered and status.consul.reachable:
        yield Finding(
            Level.ERROR,
            subject,
            "is not registered with Consul",
            "Look at the agent's log for Consul's answer",
        )
    if service.hold is not None:
        yield _hold(service.name, service.hold)
    yield _certificate(subject, service.identity)
    yield from _handshake(subject, service)
    serving = sum(not worker.draining for worker in status.workers)
    if service.identity.serial and service.identity.workers < serving:
        yield Finding(
            Level.WARNING,
            subject,
            f"{service.identity.workers} of {serving} workers serve its current certificate",
            "They have a generation to catch up; look again in a minute",
        )


def _hold(name: str, hold: HoldStatus) -> Finding:
    if "maintenance" in hold.kinds:
        message, remedy = "is in maintenance", f"fleetmesh maintenance off {name}"
    else:
        remedy = f"fleetmesh undrain {name}"
        message = "is drained"
        if hold.left is None:
            message = f"drains, {hold.under_way} under way, {span(hold.seconds_left)} left"
        elif hold.left:
            message += f", {hold.left} were still under way"
    return Finding(Level.WARNING, f"service {name}", f"{message} ({hold.why})", remedy)


def _certificate(subject: str, identity: IdentityStatus) -> Finding:
    if not identity.serial:
        return Finding(
            Level.ERROR,
            subject,
            "has no certificate, so that it neither calls nor answers",
            "Look at the agent's log for Consul's answer",
        )
    left, life = identity.served()
    if left <= 0:
        return Finding(Level.ERROR, subject, f"its certificate expired {span(-left)} ago", _RENEWAL)
    used = 1 - left / life if life > 0 else 0.0
    if used < 0:
        return Finding(
            Level.ERROR,
            subject,
            f"its certificate is valid from {span(left - life)} ahead",
            "Set this host's clock",
        )
    tells = f"its certificate has {span(left)} of {span(life)} left"
    if not identity.renewable:
        tells += " and nobody renews it while Consul does not answer"
    match judge(left, life, identity.renewable):
        case Renewal.FAILED:
            return Finding(Level.ERROR, subject, tells, _RENEWAL)
        case Renewal.LATE:
            return Finding(Level.WARNING, subject, tells, _RENEWAL)
        case Renewal.WELL:
            return Finding(Level.OK, subject, tells)


def _handshake(subject: str, service: ServiceStatus) -> Iterator[Finding]:
    """What peers get, and not what was fetched for them."""
    shown = service.identity.handshake
    if shown is None or not service.identity.serial:
        return
    if shown.age >= UNSEEN:
        yield Finding(
            Level.WARNING,
            subject,
            f"nobody has looked for {span(shown.age)} at the certificate that it shows",
            "journalctl -u fleetmesh-agent tells why",
        )
    elif shown.wrong_for >= WRONG:
        what = f"show certificate {shown.serial}, not its own {service.identity.serial}"
        if shown.error:
            what = f"fail: {shown.error}"
        yield Finding(
            Level.ERROR,
            subject,
            f"handshakes with port {service.sidecar_port} {what}, for {span(shown.wrong_for)}",
            "journalctl -u fleetmesh-agent tells why; a restart gives the workers what is known",
        )


_RENEWAL = "Consul should have renewed it: look at its agent's and its servers' logs"


def unreachable(upstreams: Iterable[Upstream]) -> list[Finding]:
    """Upstreams that have a target whose every endpoint is out."""
    return [
        Finding(
            Level.WARNING,
            f"upstream {upstream.service}",
            "has no healthy endpoint: calls to it are refused"
            if target is upstream.target
            else f"has routes to {target.id} without a healthy endpoint: these calls are refused",
            "Look at its checks in Consul",
        )
        for upstream in upstreams
        for target in upstream.targets()
        if not any(is_live(endpoint) for endpoint in target.endpoints)
    ]


def is_live(endpoint: Endpoint) -> bool:
    return endpoint.health is not Health.CRITICAL and endpoint.weight > 0


def span(seconds: float) -> str:
    """A duration for people, in its two largest units.

    >>> span(0.25), span(42), span(90), span(259_140), span(864_000)
    ('0.2s', '42s', '1m 30s', '71h 59m', '10d 0h')
    """
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 96 * 3600:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
