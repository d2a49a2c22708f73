"""An upstream's rules and endpoints as they stand, without a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fleetmesh.core.retry import Policy
from fleetmesh.core.route_rules import WHOLE
from fleetmesh.core.table import link
from fleetmesh.core.way import Way
from fleetmesh.model.explanation import Endpoints, EndpointState, Routes, RouteState
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import FieldChanges, Match, Route, Split, Upstream
from fleetmesh.plan.criteria import words
from fleetmesh.plan.explain import Knowledge, entry_of
from fleetmesh.plan.leg import changed, target_state
from fleetmesh.plan.outs import others, reasons
from fleetmesh.plan.treatment import retried


def routes(snapshot: Snapshot, service: str) -> Routes | list[Problem]:
    table = link(snapshot, 0, None, 0)
    entry = table.upstreams.get(service)
    if entry is None:
        return _unknown(service, list(table.upstreams))
    upstream = entry.upstream
    ways = zip(upstream.routes, entry.ways, strict=False)  # the default's way has no route
    found = [_rule(upstream, route, way) for route, way in ways]
    rest = RouteState(
        "",
        f"service-router/{service}: the rest" if upstream.routes else "all requests",
        Match(),
        (),
        _legs(upstream.target.id, upstream.splits),
        tuple(_does(Route(name="", timeout=upstream.timeout), upstream.splits)),
    )
    return Routes(service, upstream.protocol.value, (*found, rest))


def endpoints(snapshot: Snapshot, service: str, knowledge: Knowledge) -> Endpoints | list[Problem]:
    """Of every target that `service`'s chain leads to, and the instances that it leads not to."""
    table = link(snapshot, knowledge.generation, None, 0, knowledge.upstream)
    entry = table.upstreams.get(service)
    observed = knowledge.observed
    if entry is None:
        return _unknown(service, list(table.upstreams))
    known = reasons(observed, service, knowledge.ejected)
    targets = tuple(
        target_state(entry, entry.targets[target.id], known, "")
        for target in entry.upstream.targets()
    )
    inside = {one.id for target in targets for one in target.endpoints}
    outside: tuple[EndpointState, ...] = ()
    if observed is not None:
        outside = others(observed, service, inside, knowledge.plain.get(service, ()))
    return Endpoints(service, targets, outside)


def _unknown(service: str, known: Sequence[str]) -> list[Problem]:
    return [
        Problem(
            service,
            "is no upstream in force",
            f"Known are {', '.join(known)}" if known else "No upstream is known yet",
        )
    ]


def _rule(upstream: Upstream, route: Route, way: Way) -> RouteState:
    target = route.target or upstream.target
    return RouteState(
        route.name,
        entry_of(upstream, route.name),
        route.match,
        words(route.match),
        _legs(target.id, route.splits),
        tuple(_does(route, route.splits, way.leg.retries if way.leg is not None else None)),
    )


def _legs(target_id: str, splits: Sequence[Split]) -> tuple[tuple[int, str], ...]:
    return tuple((one.weight, one.target.id) for one in splits) or ((WHOLE, target_id),)


def _does(route: Route, splits: Sequence[Split], retries: Policy | None = None) -> Iterator[str]:
    if route.prefix_rewrite:
        yield f"rewrite to {route.prefix_rewrite}"
    if route.timeout is not None:
        yield f"timeout {route.timeout:g} s" if route.timeout else "no timeout"
    if route.idle_timeout is not None:
        yield f"idle timeout {route.idle_timeout:g} s"
    if route.retries.per_try_timeout:
        yield f"timeout of each try {route.retries.per_try_timeout:g} s"
    if route.hedge is not None:
        yield "hedged" if route.hedge else "not hedged"
    if retries is not None:
        yield f"{retries.count} retries after {', '.join(retried(retries))}"
    yield from _fields("request", route.request_fields, "")
    yield from _fields("response", route.response_fields, "")
    for split in splits:
        yield from _fields("request", split.request_fields, f" (to {split.target.id})")
        yield from _fields("response", split.response_fields, f" (to {split.target.id})")


def _fields(side: str, changes: FieldChanges, where: str) -> Iterator[str]:
    for text in changed(changes):
        yield f"{side} header: {text}{where}"
