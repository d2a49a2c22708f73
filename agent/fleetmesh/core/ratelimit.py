"""Rates that callers may not pass: the generic cell rate algorithm (GCRA, ITU-T I.371).

A bucket is one number, the time at which it is full again: nothing has to be refilled, and workers
share it (`core.buckets`). Answers say what to expect in `Retry-After` (RFC 9110) and in the fields
of the IETF's draft draft-ietf-httpapi-ratelimit-headers-10,
`RateLimit-Policy: "name";q=QUOTA;w=SECONDS` and `RateLimit: "name";r=LEFT;t=SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from fleetmesh.core.buckets import Buckets, key_of
from fleetmesh.core.request import RequestHead
from fleetmesh.core.routes import Matcher
from fleetmesh.model.traffic import RateLimit

_ROUNDING: Final = 1e-6  # seconds; sums of binary fractions
_UNPRINTED: Final = dict.fromkeys((*range(32), 127))


class Rates:
    """The limits of one kind, of which the first that is for a request counts: each with a bucket
    for all callers, or one for each, as it says. `service` is whose they are."""

    __slots__ = ("_buckets", "_limits", "_matcher", "_places", "_service")

    def __init__(self, service: str, limits: Sequence[RateLimit], buckets: Buckets) -> None:
        self._service = service
        self._limits = tuple(limits)
        self._buckets = buckets
        self._matcher = Matcher([limit.match for limit in limits])
        self._places: dict[tuple[int, str], tuple[float, int]] = {}

    def find(self, request: RequestHead) -> int:
        """Which limit is for the request, -1 for none."""
        return self._matcher.find(request.method, request.target, request)

    def limit(self, number: int) -> RateLimit:
        return self._limits[number]

    def place(self, number: int, caller: str, now: float) -> int:
        """Of the limit's bucket for `caller`."""
        limit = self._limits[number]
        whose = (number, caller if limit.per_caller else "")
        known = self._places.get(whose)
        if known is None:
            key = key_of(f"{self._service}\n{limit!r}\n{whose[1]}")
        else:
            key, place = known
            if self._buckets.has(place, key):
                return place
        place = self._buckets.find(key, now)
        self._places[whose] = (key, place)
        return place

    def wait(self, number: int, place: int, now: float) -> float:
        """Seconds until a request is within the limit; 0.0: it is now."""
        limit = self._limits[number]
        tolerance = (burst_of(limit) - 1) / limit.per_second
        wait = self._buckets.full_at(place) - tolerance - now
        return wait if wait > _ROUNDING else 0.0

    def take(self, number: int, place: int, now: float) -> None:
        buckets = self._buckets
        each = 1.0 / self._limits[number].per_second
        buckets.fill_at(place, max(buckets.full_at(place), now) + each)

    def lines(self, number: int, wait: float) -> bytes:
        """What an answer tells of a limit that was passed."""
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

    __slots__ = ("_kinds", "limits", "lines")

    def __init__(self, service: str, limits: tuple[RateLimit, ...], buckets: Buckets) -> None:
        self.limits = limits
        kinds = (
            [limit for limit in limits if not limit.per_caller],
            [limit for limit in limits if limit.per_caller],
        )
        self._kinds = [Rates(service, kind, buckets) for kind in kinds if kind]
        self.lines = b""

    def limits_for(self, request: RequestHead) -> list[RateLimit]:
        """Those that `admits` asks."""
        found = [(rates, rates.find(request)) for rates in self._kinds]
        return [rates.limit(number) for rates, number in found if number >= 0]

    def admits(self, caller: str, request: RequestHead, now: float) -> bool:
        """If not, `lines` are the fields of the answer."""
        taken: list[tuple[Rates, int, int]] = []
        for rates in self._kinds:
            number = rates.find(request)
            if number < 0:
                continue
            place = rates.place(number, caller, now)
            wait = rates.wait(number, place, now)
            if wait > 0.0:
                self.lines = rates.lines(number, wait)
                return False
            taken.append((rates, number, place))
        for rates, number, place in taken:
            rates.take(number, place, now)
        return True


def burst_of(limit: RateLimit) -> int:
    """As with Consul: the requests of a second where nothing is said."""
    return limit.burst or max(ceil(limit.per_second), 1)
