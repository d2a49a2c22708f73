"""Explanations as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from fleetmesh.cli.findings import span
from fleetmesh.model.explanation import (
    Decision,
    Difference,
    Endpoints,
    EndpointState,
    Explanation,
    LegState,
    Routes,
    TargetState,
)

WIDTH = 13


def explanation(found: Explanation) -> list[str]:
    return list(_explanation(found))


def _explanation(found: Explanation) -> Iterator[str]:
    question = found.question
    host = f"[{question.host}]" if ":" in question.host else question.host
    what = f"tcp {host}:{question.port}"
    if question.method:
        port = "" if question.port == 80 else f":{question.port}"
        what = f"{question.method} http://{host}{port}{question.target}"
    yield f"{what} from {question.source}: {found.outcome.value}"
    if found.reason:
        yield _row("because", found.reason)
    yield _row("found by", _found(found))
    yield _row("identity", _identity(found))
    if found.upstream:
        yield _row("upstream", f"{found.upstream}, {found.protocol}, carried as {found.kind}")
    for note in found.notes:
        yield _row("note", note)
    if found.decided_by:
        yield _row("rule", found.decided_by)
    for rule in found.rules:
        yield f"  {rule.entry}: {'taken' if rule.taken else 'does not match'}"
        if not rule.criteria:
            yield "    matches every request"
        for one in rule.criteria:
            yield f"    {'yes' if one.holds else 'no ':<4} {one.text}"
    for leg in found.legs:
        yield from _leg(leg, len(found.legs) > 1, found.kind == "http")


def _found(found: Explanation) -> str:
    how = found.found
    text = how.how.value
    if how.service:
        text += f": {how.service}"
    if how.addresses:
        text += f" ({', '.join(how.addresses)})"
    return f"{text}; {how.note}" if how.note else text


def _identity(found: Explanation) -> str:
    identity = found.identity
    if not identity.serial:
        return f"{identity.spiffe_id}, no certificate"
    left = identity.seconds_left
    life = f"for another {span(left)}" if left > 0 else f"EXPIRED {span(-left)} ago"
    return f"{identity.spiffe_id}, certificate {identity.serial} {life}"


def _leg(leg: LegState, divided: bool, http: bool) -> Iterator[str]:
    share = f"{leg.share / 100:g} % to " if divided else "to "
    yield f"{share}{_target(leg.target)}"
    if leg.steps:
        yield _row("  chain", " → ".join(leg.steps))
    if leg.refusal:
        yield _row("  refused", leg.refusal)
    if http:
        yield _row("  sent as", leg.forwarded)
    yield from _ends(leg.target)
    if leg.decision is not None:
        yield from _decision(leg.decision)
    if not http:
        return
    timeout = f"{leg.timeout:g} s" if leg.timeout else "none"
    yield _row("  timeout", f"{timeout} ({leg.timeout_by})")
    yield _row("  idle", f"{leg.idle_timeout:g} s ({leg.idle_timeout_by})")
    retries = "none"
    if leg.retries:
        retries = f"{leg.retries} after {', '.join(leg.retried)} ({leg.retries_by})"
    yield _row("  retries", retries)
    if leg.try_timeout:
        yield _row("  each try", f"{leg.try_timeout:g} s ({leg.try_timeout_by})")
    if leg.stream_timeout:
        yield _row("  at most", f"{leg.stream_timeout:g} s ({leg.stream_timeout_by})")
    if leg.hedge:
        yield _row("  hedged", f"after the p95 ({leg.hedge_by})")
    for rate in leg.rates:
        yield _row("  rate", rate)
    for change in leg.request_changes:
        yield _row("  request", change)
    for change in leg.response_changes:
        yield _row("  response", change)


def _target(target: TargetState) -> str:
    subset = f", subset {target.subset}" if target.subset else ""
    return f"{target.service}{subset} in {target.datacenter} [{target.id}]"


def _ends(target: TargetState) -> Iterator[str]:
    if target.filter:
        yield _row("  filter", target.filter)
    yield _row("  expects", f"{target.spiffe_id}")
    yield _row("  sni", target.sni)
    balancing = target.balancing
    if target.hashed_by:
        balancing += f" by {'; '.join(target.hashed_by)}"
    if target.picks:
        balancing += f": this request's is {target.picks}"
    if target.zone:
        balancing += f", zone {target.zone} first"
    yield _row("  balancing", balancing)
    yield _row("  connect", f"{target.connect_timeout:g} s")
    if target.max_connections or target.max_requests:
        limits = [
            f"{number} {name}"
            for number, name in (
                (target.max_connections, "connections"),
                (target.max_requests, "requests"),
            )
            if number
        ]
        waits = f", then {target.queue_wait:g} s in line" if target.queue_wait else ""
        yield _row("  at most", " and ".join(limits) + " for each endpoint and worker" + waits)
    yield from _endpoints(target.endpoints)
    for spare in target.failover:
        used = "serves now" if spare.id == target.serving else "in reserve"
        yield _row("  failover", f"{spare.service} in {spare.datacenter} [{spare.id}]: {used}")
        yield from _endpoints(spare.endpoints)


def _endpoints(endpoints: Sequence[EndpointState]) -> Iterator[str]:
    if not endpoints:
        yield _row("  endpoint", "none")
    for one in endpoints:
        address = f"[{one.address}]" if ":" in one.address else one.address
        text = f"{one.id} {address}:{one.port} {one.health}, weight {one.weight}"
        if one.zone:
            text += f", zone {one.zone}"
        yield _row("  endpoint", f"{text}; OUT: {one.out}" if one.out else text)


def _decision(decision: Decision) -> Iterator[str]:
    text = "not known"
    if decision.allowed is not None:
        text = f"{'allows' if decision.allowed else 'denies'}: {decision.because}"
    if decision.precedence:
        text += f", precedence {decision.precedence}"
    yield _row("  intention", f"{text} [{decision.basis}]")
    if decision.consul is not None:
        answer = "allows" if decision.consul else "denies"
        yield _row("", f"Consul's own answer for a connection: {answer}")
    if decision.note:
        yield _row("", decision.note)


def routes(found: Routes) -> list[str]:
    return list(_routes(found))


def _routes(found: Routes) -> Iterator[str]:
    yield f"{found.service}, {found.protocol}"
    for route in found.routes:
        yield f"  {route.entry}"
        for text in route.criteria:
            yield f"    when  {text}"
        for share, target in route.legs:
            yield f"    to    {target}" + (f" {share / 100:g} %" if len(route.legs) > 1 else "")
        for text in route.does:
            yield f"    with  {text}"


def endpoints(found: Endpoints) -> list[str]:
    return list(_listed(found))


def _listed(found: Endpoints) -> Iterator[str]:
    yield found.service
    for target in found.targets:
        yield _target(target)
        yield from _ends(target)
    if found.others:
        yield "in no target"
        yield from _endpoints(found.others)


def compared(in_force: bool, found: Sequence[Difference]) -> Iterator[str]:
    """What follows the answer from Consul."""
    if not in_force:
        yield "computed from Consul; nothing in force to compare it with"
    elif not found:
        yield "computed from Consul; the same is in force"
    else:
        yield "computed from Consul; in force it differs:"
        for one in found:
            yield f"  {one.path}: in force {_value(one.in_force)}, by Consul {_value(one.consul)}"


def _value(value: object) -> str:
    return "nothing" if value is None else msgspec.json.encode(value).decode()


def _row(name: str, text: str) -> str:
    return f"  {name:<{WIDTH}}{text}".rstrip()
