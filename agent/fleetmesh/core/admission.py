"""Which requests a local service lets in: within its rates, and as many as it can do at a time."""

from __future__ import annotations

from typing import Final

from fleetmesh.core.buckets import Buckets, alone
from fleetmesh.core.concurrency import Concurrency
from fleetmesh.core.lane import Lane
from fleetmesh.core.ratelimit import RateLimiter
from fleetmesh.core.request import RequestHead
from fleetmesh.core.trace import under_way
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.snapshot import LocalService

LATER: Final = b"Retry-After: 1\r\n"


class Admission:
    """One worker's. `lines` are the fields that the answer to the last refusal has."""

    __slots__ = ("application", "concurrency", "lines", "rates")

    def __init__(
        self, application: Lane, concurrency: Concurrency | None, rates: RateLimiter | None
    ) -> None:
        self.application = application
        self.concurrency = concurrency
        self.rates = rates
        self.lines = b""

    def judge(self, caller: str, request: RequestHead, now: float) -> Refusal | None:
        """None: `request` goes to the application. `now` is in monotonic seconds."""
        rates = self.rates
        if rates is not None and not rates.admits(caller, request, now):
            self.lines = rates.lines
            return Refusal.RATE_LIMITED
        concurrency = self.concurrency
        if concurrency is not None:
            pool = self.application.pool
            active = pool.active + pool.opening - pool.tunnels
            if not concurrency.admits(active, under_way(request), now):
                self.lines = LATER
                return Refusal.OVERLOADED
        return None


def admission(
    service: LocalService,
    application: Lane,
    workers: int,
    now: float,
    previous: Admission | None,
    buckets: Buckets | None = None,
) -> Admission | None:
    """None where everything is let in. What is known of an application and of callers stays known
    as long as nothing else is said of them."""
    concurrency: Concurrency | None = None
    if service.adaptive_concurrency:
        if previous is not None and previous.application is application:
            concurrency = previous.concurrency
        if concurrency is None:
            concurrency = Concurrency(workers, now)
    application.standing = concurrency
    rates: RateLimiter | None = None
    if service.rate_limits:
        if previous is not None and previous.rates is not None:
            rates = previous.rates
        if rates is None or rates.limits != service.rate_limits:
            rates = RateLimiter(service.name, service.rate_limits, buckets or alone())
    if concurrency is None and rates is None:
        return None
    return Admission(application, concurrency, rates)
