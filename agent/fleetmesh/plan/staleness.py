"""What of Consul is stale, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleetmesh.model.status import WatchStatus
from fleetmesh.plan.observed import (
    Watch,
    WatchCatalog,
    WatchChain,
    WatchInstances,
    WatchIntentions,
    WatchLeaf,
    WatchProxyDefaults,
    WatchResolvers,
    WatchRoots,
    WatchServiceDefaults,
)


def kind(watch: Watch) -> str:
    """As `WatchStatus.watch`."""
    match watch:
        case WatchRoots():
            return "roots"
        case WatchIntentions():
            return "intentions"
        case WatchCatalog():
            return "catalog"
        case WatchServiceDefaults():
            return "service-defaults"
        case WatchProxyDefaults():
            return "proxy-defaults"
        case WatchResolvers():
            return "service-resolvers"
        case WatchLeaf(service):
            return f"leaf:{service}"
        case WatchChain():
            return "chains"
        case WatchInstances():
            return "instances"


def statuses(
    running: Iterable[Watch],
    answered: Mapping[Watch, float],
    aged: Mapping[Watch, float],
    failing: Mapping[Watch, str],
    now: float,
    begun: float,
) -> tuple[WatchStatus, ...]:
    """One for each kind, sorted. `answered`, `now` and `begun` (when the agent began to ask) are
    of one clock; `aged` is how old an answer was when it came."""
    worst: dict[str, WatchStatus] = {}
    for watch in running:
        at = answered.get(watch)
        since = None if at is None else now - at
        age = aged.get(watch, 0.0)
        fails = watch in failing
        stale = 0.0
        if since is None:
            stale = now - begun if fails else 0.0
        elif fails or age:
            stale = since + age
        one = WatchStatus(kind(watch), since, stale, failing.get(watch, ""))
        before = worst.get(one.watch)
        if before is None or _badness(one) > _badness(before):
            worst[one.watch] = one
    return tuple(worst[name] for name in sorted(worst))


def _badness(status: WatchStatus) -> tuple[float, float]:
    never = float("inf")
    return status.stale, never if status.answered is None else status.answered
