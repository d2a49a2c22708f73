"""Which outcomes of a try let a request be sent again, and after what pause."""

from __future__ import annotations

from typing import Final

from fleetmesh.core.budget import Budget
from fleetmesh.model.traffic import Retries

CONDITIONS: Final = frozenset(
    {"connect-failure", "reset", "5xx", "gateway-error", "retriable-4xx", "refused-stream"}
)
BASE: Final = 0.025  # seconds; this and the next are Envoy's defaults
MOST: Final = 0.25

_STATUSES: Final = {
    "5xx": range(500, 600),
    "gateway-error": range(502, 505),
    "retriable-4xx": range(409, 410),
}


class Policy:
    """`count` tries beside the first, after an answer with one of `statuses`, after a `connect`
    that failed, after a `reset` before the answer, as far as the upstream's `budget` goes.

    As with Envoy, `5xx` and `gateway-error` mean the latter two as well, and every method is
    retried. `refused-stream` is HTTP/2's alone. A 503 by which the callee's agent says that the
    connect or the reset was its application's counts as one.

    `by_default`: nobody has asked for it. Then what the application may have seen is sent again
    only if its method is idempotent, and only where there is another endpoint.
    """

    __slots__ = ("budget", "by_default", "connect", "count", "reset", "statuses")

    def __init__(self, retries: Retries, budget: Budget, *, by_default: bool = False) -> None:
        self.budget = budget
        self.by_default = by_default
        statuses = set(retries.statuses)
        for condition in retries.on:
            statuses.update(_STATUSES.get(condition, ()))
        broken = "5xx" in retries.on or "gateway-error" in retries.on
        self.count = retries.count
        self.statuses = frozenset(statuses)
        self.connect = broken or "connect-failure" in retries.on
        self.reset = broken or "reset" in retries.on


def policy(retries: Retries, budget: Budget) -> Policy | None:
    """None where nothing is ever retried."""
    return (
        Policy(retries, budget) if retries.count > 0 and (retries.on or retries.statuses) else None
    )


def by_default(count: int, budget: Budget) -> Policy | None:
    """For what no route says anything about; None for a `count` of 0."""
    said = Retries(count, ("connect-failure", "reset"))
    return Policy(said, budget, by_default=True) if count else None


def pause(number: int, drawn: float) -> float:
    """Seconds before retry `number` (from 1); `drawn` is random, 0 to 1: full jitter."""
    return min(BASE * ((1 << min(number, 10)) - 1), MOST) * drawn
