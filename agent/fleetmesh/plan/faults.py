"""Whether a fault may be injected, and which of those that were may stay.

The permission is the callee's to give, like an intention: `fleetmesh-allow-faults` in the Meta of
its service-defaults entry names the callers whose requests to it may be made to fail.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from msgspec.structs import replace

from fleetmesh.core.faults import FaultRule
from fleetmesh.core.framing import TOKEN
from fleetmesh.core.request import RequestHead
from fleetmesh.model.fault import ALL, Fault, Order, Permission
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import FaultCount
from fleetmesh.model.status import MAX_WHY, FaultStatus
from fleetmesh.model.traffic import FieldMatch, Protocol, Upstream
from fleetmesh.plan.defaults import Defaults
from fleetmesh.plan.names import named
from fleetmesh.plan.observed import Observed, chain_of
from fleetmesh.settings.kinds import go_duration

KEY = "fleetmesh-allow-faults"
MOST = 100
"""Faults at a time."""
MAX_SECONDS = 3600.0
MAX_DELAY = 300.0
LEAST_PERCENT = 0.01
STATUSES = range(400, 600)
_NAME = re.compile(TOKEN)
_VALUE = re.compile(r"[\t\x20-\x7e]+")


def permission(key: str, observed: Observed) -> Permission:
    """What the owner of the upstream `key` says; nothing while Consul has not told."""
    chain = chain_of(key, observed)
    service = chain.service if chain is not None else named(key).service
    defaults = Defaults(observed.service_defaults, observed.proxy_defaults, ())
    return Permission(service, defaults.meta(service)[0].allow_faults or ())


def judged(
    order: Order,
    upstream: Upstream | None,
    local: Collection[str],
    permission: Permission,
    active: int,
) -> tuple[str, ...] | list[Problem]:
    """The callers that suffer what is ordered: services of this host (`local`) that have the
    `permission`. Else every problem. `active` counts the faults there are."""
    problems = list(_numbers(order))
    problems += _headers(order)
    if active >= MOST:
        rule = f"{active} are active, and more there may not be"
        problems.append(Problem("faults", rule, "fleetmesh fault clear ID"))
    if order.source and order.source not in local:
        known = ", ".join(sorted(local)) or "none"
        rule = f"{order.source} is no service of this host"
        problems.append(Problem("--from", rule, f"Inject it where it is declared; here: {known}"))
    if upstream is None:
        rule = f"{order.service} is no upstream of this host"
        problems.append(Problem("SERVICE", rule, "fleetmesh status lists them"))
        return problems
    if upstream.protocol is Protocol.TCP:
        rule = f"{order.service} is tcp: there are no requests to delay or to abort"
        problems.append(Problem("SERVICE", rule, "Only http has faults"))
    wanted = [order.source] if order.source else sorted(local)
    callers = permission.among(wanted)
    if not callers and (not order.source or order.source in local):
        who = " or ".join(wanted)
        named_there = ", ".join(permission.callers)
        said = f"names {named_there}, not {who}" if named_there else f"does not name {who}"
        problems.append(
            Problem(
                f"service-defaults/{permission.service}: Meta[{KEY}]",
                f"{said}: faults in its calls are not allowed",
                f'Its owner allows them with Meta = {{ {KEY} = "{wanted[0] if wanted else ALL}" }}',
            )
        )
    return problems or callers


def _numbers(order: Order) -> Iterator[Problem]:
    if bool(order.delay) == bool(order.abort):
        yield Problem("--delay, --abort", "exactly one of them is wanted", "Choose one")
    if order.delay and not 0 < order.delay <= MAX_DELAY:
        yield Problem("--delay", f"must be above 0 and {go_duration(MAX_DELAY)} at most")
    if order.abort and order.abort not in STATUSES:
        yield Problem("--abort", f"must be a status, {STATUSES[0]} to {STATUSES[-1]}")
    if not LEAST_PERCENT <= order.percent <= 100:
        yield Problem("--percent", f"must be {LEAST_PERCENT} to 100")
    if not 1 <= order.seconds <= MAX_SECONDS:
        yield Problem(
            "--for", f"must be 1s to {go_duration(MAX_SECONDS)}", "Every fault has an end"
        )
    if len(order.why) > MAX_WHY:
        yield Problem("--why", f"must have {MAX_WHY} characters at most")


def _headers(order: Order) -> Iterator[Problem]:
    for name, value in order.headers:
        if not _NAME.fullmatch(name.encode()):
            yield Problem("-H", f'"{name}" is not the name of a header field', "Write NAME: VALUE")
        elif value is not None and not _VALUE.fullmatch(value):
            yield Problem("-H", f"{name}: its value can stand in no header field")


def made(
    order: Order, callers: tuple[str, ...], fault_id: str, by: str, monotonic: float, now: float
) -> Fault:
    """An order that was judged, begun at `monotonic` and at `now` of the epoch."""
    return Fault(
        id=fault_id,
        service=order.service,
        callers=callers,
        share=round(order.percent * 100),
        delay=order.delay,
        abort=order.abort,
        headers=tuple(
            FieldMatch(name, present=True) if value is None else FieldMatch(name, exact=value)
            for name, value in order.headers
        ),
        until=monotonic + order.seconds,
        since=now,
        by=by,
        why=" ".join(order.why.split()),
    )


def kept(fault: Fault, local: Collection[str], permission: Permission) -> Fault | None:
    """What of `fault` is still permitted and of this host; None when nothing is."""
    callers = permission.among(one for one in fault.callers if one in local)
    return replace(fault, callers=callers) if callers else None


def status(fault: Fault, counts: Collection[FaultCount], monotonic: float) -> FaultStatus:
    return FaultStatus(
        id=fault.id,
        service=fault.service,
        callers=fault.callers,
        percent=fault.share / 100,
        does=does(fault),
        kind=fault.kind.value,
        delay=fault.delay,
        abort=fault.abort,
        headers=tuple(map(_header, fault.headers)),
        seconds_left=max(fault.until - monotonic, 0.0),
        struck=sum(one.count for one in counts if one.id == fault.id),
        since=fault.since,
        by=fault.by,
        why=fault.why,
    )


def active(
    faults: Iterable[Fault], service: str, source: str, head: RequestHead, monotonic: float
) -> tuple[str, ...]:
    """What may befall a request of `source` to `service`, a sentence each."""
    return tuple(
        f"fault {one.id} is injected: {does(one)}, for another {one.until - monotonic:.0f}s"
        for one in faults
        if one.service == service and FaultRule(one).concerns(source, head, monotonic)
    )


def does(fault: Fault) -> str:
    """In a sentence.

    >>> does(Fault("f", "api", ("web",), 500, delay=2.0))
    '5 % of the requests from web to api are delayed by 2s'
    """
    what = f"delayed by {go_duration(fault.delay)}" if fault.delay else f"aborted ({fault.abort})"
    where = f" with {' and '.join(map(_header, fault.headers))}" if fault.headers else ""
    who = " and ".join(fault.callers)
    return (
        f"{fault.share / 100:g} % of the requests from {who} to {fault.service}{where} are {what}"
    )


def _header(match: FieldMatch) -> str:
    return match.name if match.present else f"{match.name}: {match.exact}"
