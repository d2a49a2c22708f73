"""How a request is tried on its way: how often, how long each time, and by whose word."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fleetmesh.core.retry import Policy
from fleetmesh.core.way import Way
from fleetmesh.model.traffic import Route
from fleetmesh.plan.meta import PREFIX

ROUTE = "route"


class Treatment(msgspec.Struct, frozen=True):
    """As a LegState says it."""

    retries: int
    retried: tuple[str, ...]
    retries_by: str
    try_timeout: float
    try_timeout_by: str
    stream_timeout: float
    stream_timeout_by: str
    hedge: bool
    hedge_by: str


def treatment(way: Way, route: Route | None) -> Treatment:
    """Of what takes `way`, which is the `route`'s if there is one."""
    leg, target = way.leg, way.target
    tries = target.tries
    own = leg.retries if leg is not None else None
    policy = target.retries if own is None else own
    place = target.pick()
    if policy is not None and policy.by_default and (place is None or place.standing is None):
        policy = None
    by_default = "settings: upstream.retries" if tries.retries is None else _meta("retries")
    per_try = route is not None and route.retries.per_try_timeout is not None
    stream_by = "settings: upstream.stream_timeout"
    return Treatment(
        retries=policy.count if policy is not None else 0,
        retried=tuple(retried(policy)) if policy is not None else (),
        retries_by=by_default if own is None else ROUTE,
        try_timeout=leg.try_timeout if leg is not None else 0.0,
        try_timeout_by=ROUTE if per_try else _meta("per-try-timeout"),
        stream_timeout=target.stream_timeout,
        stream_timeout_by=stream_by if tries.stream_timeout is None else _meta("stream-timeout"),
        hedge=leg is not None and leg.hedge is not None,
        hedge_by=ROUTE if route is not None and route.hedge is not None else _meta("hedge"),
    )


def _meta(key: str) -> str:
    return f"service-defaults: Meta[{PREFIX}{key}]"


def retried(policy: Policy) -> Iterator[str]:
    if policy.connect:
        yield "a connect that failed"
    if policy.reset:
        yield "a reset before the answer"
    if policy.by_default:
        yield "a 5xx of an endpoint that is ejected"
        yield "each at another endpoint, of an idempotent method or not seen by an application"
    if policy.statuses:
        yield f"status {', '.join(_ranges(sorted(policy.statuses)))}"


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Neighbours as one.

    >>> list(_ranges([409, 500, 501, 502]))
    ['409', '500-502']
    """
    at = 0
    while at < len(numbers):
        end = at
        while end + 1 < len(numbers) and numbers[end + 1] == numbers[end] + 1:
            end += 1
        yield str(numbers[at]) if end == at else f"{numbers[at]}-{numbers[end]}"
        at = end + 1
