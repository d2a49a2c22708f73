"""Rates that callers may not pass: the generic cell rate algorithm (GCRA, ITU-T I.371).

A bucket is one number, the time at which it is full again: nothing has to be refilled. Answers say
what to expect in `Retry-After` (RFC 9110) and in the fields of the IETF's draft
draft-ietf-httpapi-ratelimit-headers-10,
`RateLimit-Policy: "name";q=QUOTA;w=SECONDS` and `RateLimit: "name";r=LEFT;t=SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from fleetmesh.core.request import RequestHead
from fleetmesh.core.routes import Matcher
from fleetmesh.model.traffic import RateLimit

_ROUNDING: Final = 1e-6  # seconds; sums of binary fractions
_UNPRINTED: Final = dict.fromkeys((*range(32), 127))


class Bucket:
    """`rate` requests a second, `burst` (1 or more) at once. Times are monotonic seconds."""

    __slots__ = ("_each", "_full_at", "_tolerance")

    def __init__(self, rate: float, burst: float) -> None:
        self._each = 1.0 / rate
        self._tolerance = (max(burst, 1.0) - 1.0) / rate
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until a request is within the rate; 0.0: it is now."""
        wait = self._full_at - self._tolerance - now
        return wait if wait > _ROUNDING else 0.0

    def take(self, now: float) -> None:
        self._full_at = max(self._full_at, now) + self._each


class Rates:
    """The limits of one kind, of which the first that is for a request counts: each with a bucket
    for all callers, or one for each, as it says. A worker has its part of them."""

    __slots__ = ("_buckets", "_limits", "_matcher", "_workers")

    def __init__(self, limits: Sequence[RateLimit], workers: int) -> None:
        self._limits = tuple(limits)
        self._workers = max(workers, 1)
        self._matcher = Matcher([limit.match for limit in limits])
        self._buckets: dict[tuple[int, str], Bucket] = {}

    def find(self, request: RequestHead) -> int:
        """Which limit is for the request, -1 for none."""
        return self._matcher.find(request.method, request.target, request)

    def limit(self, number: int) -> RateLimit:
        return self._limits[number]

    def bucket(self, number: int, caller: str) -> Bucket:
        limit = self._limits[number]
        key = (number, caller if limit.per_caller else "")
        found = self._buckets.get(key)
        if found is None:
            rate = limit.per_second / self._workers
            found = Bucket(rate, burst_of(limit) / self._workers)
            self._buckets[key] = found
        return found

    def lines(self, number: int, wait: float) -> bytes:
        """What an answer tells of a limit that was passed; the limit is the instance's."""
        limit = self._limits[number]
        burst = burst_of(limit)
        seconds = max(ceil(wait), 1)
        name = limit.name.translate(_UNPRINTED).replace("\\", "\\\\").replace('"', '\\"')
        policy = b'"%b"' % name.encode("ascii", "replace")
        window = max(ceil(burst / limit.per_second), 1)
        return (
            b"Retry-After: %d\r\n" % seconds
            + b"RateLimit-Policy: %b;q=%d;w=%d\r\n" % (policy, burst, window)
            + b"RateLimit: %b;r=0;t=%d\r\n" % (policy, seconds)
        )


class RateLimiter:
    """What is for an instance and what is for each caller: a request must be within both."""

    __slots__ = ("_kinds", "limits", "lines", "workers")

    def __init__(self, limits: tuple[RateLimit, ...], workers: int) -> None:
        self.limits = limits
        self.workers = workers
        kinds = (
            [limit for limit in limits if not limit.per_caller],
            [limit for limit in limits if limit.per_caller],
        )
        self._kinds = [Rates(kind, workers) for kind in kinds if kind]
        self.lines = b""

    def limits_for(self, request: RequestHead) -> list[RateLimit]:
        """Those that `admits` asks."""
        found = [(rates, rates.find(request)) for rates in self._kinds]
        return [rates.limit(number) for rates, number in found if number >= 0]

    def admits(self, caller: str, request: RequestHead, now: float) -> bool:
        """If not, `lines` are the fields of the answer."""
        taken: list[Bucket] = []
        for rates in self._kinds:
            number = rates.find(request)
            if number < 0:
                continue
            bucket = rates.bucket(number, caller)
            wait = bucket.wait(now)
            if wait > 0.0:
                self.lines = rates.lines(number, wait)
                return False
            taken.append(bucket)
        for bucket in taken:
            bucket.take(now)
        return True


def burst_of(limit: RateLimit) -> int:
    """As with Consul: the requests of a second where nothing is said."""
    return limit.burst or max(ceil(limit.per_second), 1)
