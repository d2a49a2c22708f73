"""Where a share of the requests goes: the target, its endpoints, the callee, and what is said of
the request on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fleetmesh.balance import DEFAULT
from fleetmesh.core.entry import UpstreamEntry
from fleetmesh.core.request import RequestHead
from fleetmesh.core.route_rules import WHOLE
from fleetmesh.core.target import TargetEntry
from fleetmesh.core.way import Leg, Way
from fleetmesh.model.explanation import (
    EndpointState,
    LegState,
    Question,
    SpareState,
    TargetState,
)
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.traffic import FieldChanges, HashPolicy, Route, Split, Target
from fleetmesh.plan.callee import Callees
from fleetmesh.plan.outs import Reasons, state
from fleetmesh.plan.treatment import treatment
from fleetmesh.settings import HttpSettings

CALLER = "192.0.2.1:1"
"""Stands for the address of the application's connection, which nobody knows beforehand."""


class Legs:
    def __init__(
        self,
        entry: UpstreamEntry,
        question: Question,
        http: HttpSettings,
        reasons: Reasons,
        callees: Callees,
    ) -> None:
        self._entry = entry
        self._source = question.source
        self._ipv6 = ":" in question.host
        self._http = http
        self._reasons = reasons
        self._callees = callees

    def connection(self) -> LegState:
        """What is not http goes to the upstream's own target."""
        target = target_state(
            self._entry, self._entry.default.target, self._reasons, self._source, self._ipv6
        )
        callee = _serving(self._entry, target)
        return LegState(
            WHOLE,
            target,
            refusal="" if target.serving else Refusal.NO_ENDPOINT.code,
            decision=self._callees.decision(callee, None),
        )

    def request(
        self,
        share: int,
        way: Way,
        whole: Way,
        route: Route | None,
        split: Split | None,
        head: RequestHead,
        steps: tuple[str, ...],
    ) -> LegState:
        """`way` is the one drawn from `whole`; `head` is judged, and changed here as they say."""
        if whole.rewrites:
            head.target = whole.forwarded(head.target)
        target = target_state(
            self._entry, way.target, self._reasons, self._source, self._ipv6, head
        )
        forwarded = head.target.decode(errors="replace")
        changes: tuple[str, ...] = ()
        leg = way.leg
        if leg is not None and leg.request is not None:
            before = list(head.lines)
            head.lines = leg.request.changed(head.lines, head, CALLER)
            changes = tuple(_difference(before, head.lines))
        callee = _serving(self._entry, target)
        timeout, timeout_by = self._timeout(leg, route)
        idle = leg.idle_timeout if leg is not None else None
        treated = treatment(way, route)
        return LegState(
            share=share,
            target=target,
            steps=steps,
            forwarded=forwarded,
            refusal="" if target.serving else Refusal.NO_ENDPOINT.code,
            decision=self._callees.decision(callee, head),
            timeout=timeout,
            timeout_by=timeout_by,
            idle_timeout=idle or self._http.idle_timeout,
            idle_timeout_by="route" if idle else "settings: http.idle_timeout",
            retries=treated.retries,
            retried=treated.retried,
            retries_by=treated.retries_by,
            try_timeout=treated.try_timeout,
            try_timeout_by=treated.try_timeout_by,
            stream_timeout=treated.stream_timeout,
            stream_timeout_by=treated.stream_timeout_by,
            hedge=treated.hedge,
            hedge_by=treated.hedge_by,
            rates=tuple(self._callees.rates(callee, head)),
            request_changes=changes,
            response_changes=tuple(
                text
                for said in (split, route)
                if said is not None
                for text in changed(said.response_fields)
            ),
        )

    def _timeout(self, leg: Leg | None, route: Route | None) -> tuple[float, str]:
        if leg is None or leg.timeout is None:
            return self._http.request_timeout, "settings: http.request_timeout"
        return leg.timeout, "route" if route is not None else "service-resolver"


def target_state(
    entry: UpstreamEntry,
    target: TargetEntry,
    reasons: Reasons,
    source: str,
    ipv6: bool = False,
    head: RequestHead | None = None,
) -> TargetState:
    """`target` as the table has it: whose endpoints it uses is asked of its picker."""
    known = {one.id: one for one in entry.upstream.targets()}
    said = known[target.id]
    place = target.pick()
    serving = ""
    if place is not None:
        within = (key for key in (said.id, *said.failover) if place in entry.targets[key].places)
        serving = next(within, said.id)
    server = known.get(serving, said)
    lane = place.lane(source, ipv6) if place is not None else None
    line = lane.pool.line if lane is not None else None
    return TargetState(
        id=said.id,
        service=said.service,
        subset=said.subset,
        filter=reasons.filters.get(said.id, ""),
        datacenter=said.datacenter,
        endpoints=_endpoints(said, reasons),
        serving=serving,
        failover=tuple(
            SpareState(one.id, one.service, one.datacenter, _endpoints(one, reasons))
            for one in (known[key] for key in said.failover)
        ),
        sni=place.sni if place is not None else said.sni,
        spiffe_id=place.expected if place is not None else str(said.spiffe_id),
        connect_timeout=place.connect_timeout if place is not None else said.connect_timeout,
        balancing=server.balancing.policy or DEFAULT,
        zone=server.balancing.local_zone,
        hashed_by=tuple(_hashed_by(one) for one in server.balancing.hash_policies)
        if target.hashing is not None
        else (),
        picks=_picks(target, server, head),
        max_connections=lane.pool.max_connections if lane is not None else 0,
        max_requests=lane.pool.max_requests if lane is not None else 0,
        queue_wait=line.patience if line is not None else 0.0,
    )


def _endpoints(target: Target, reasons: Reasons) -> tuple[EndpointState, ...]:
    return tuple(
        state(
            endpoint,
            reasons.why.get((target.id, endpoint.id), ""),
            reasons.ejected.get(endpoint.id, ""),
        )
        for endpoint in target.endpoints
    )


def _picks(target: TargetEntry, server: Target, head: RequestHead | None) -> str:
    """The endpoint that the request's own hash leads to; empty where chance or the caller's
    address has a say."""
    hashing = target.hashing
    if hashing is None or head is None:
        return ""
    if any(policy.source_address for policy in server.balancing.hash_policies):
        return ""
    first, second = (hashing.number(head, b"", drawn) for drawn in (1, 2))
    place = target.pick((), first) if first == second else None
    return place.endpoint.id if place is not None else ""


def _serving(entry: UpstreamEntry, target: TargetState) -> str:
    """The service whose endpoints are used."""
    for one in entry.upstream.targets():
        if one.id == target.serving:
            return one.service
    return target.service


def _hashed_by(policy: HashPolicy) -> str:
    if policy.source_address:
        what = "source address"
    elif policy.header:
        what = f"header {policy.header}"
    elif policy.query:
        what = f"query {policy.query}"
    else:
        what = f"cookie {policy.cookie}"
    return f"{what}, terminal" if policy.terminal else what


def changed(changes: FieldChanges) -> Iterator[str]:
    yield from (f"remove {name}" for name in changes.remove)
    yield from (f"set {name}: {value}" for name, value in changes.set)
    yield from (f"add {name}: {value}" for name, value in changes.add)


def _difference(before: list[bytes], after: list[bytes]) -> Iterator[str]:
    """Of field lines: what is gone, then what came."""
    gone, came = Counter(before), Counter(after)
    for line in (gone - came).elements():
        yield f"- {line.decode(errors='replace').rstrip()}"
    for line in (came - gone).elements():
        yield f"+ {line.decode(errors='replace').rstrip()}"
