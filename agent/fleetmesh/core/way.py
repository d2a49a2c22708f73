"""What becomes of a request: the target it goes to, and what is said of it on the way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from fleetmesh.core.budget import Budget
from fleetmesh.core.fields import Fields, fields
from fleetmesh.core.retry import Policy, policy
from fleetmesh.core.slowness import Slowness
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.traffic import FieldChanges, Match, Route, Split, Target, Upstream

_SILENT = Route(name="")
_UNCHANGED = FieldChanges()


class Hedge:
    """A request whose answer has not begun after the p95 of `slowness` is sent to another endpoint
    too, as far as the `budget` of the retries goes."""

    __slots__ = ("budget", "slowness")

    def __init__(self, slowness: Slowness, budget: Budget) -> None:
        self.slowness = slowness
        self.budget = budget


class Leg:
    """What a request is to be served with where anything is said of that beside its target.

    `timeout` and `idle_timeout` in seconds, None for the settings'; `request` and `response` change
    the fields of either head; with `retries` None the target's are meant. `try_timeout` and
    `stream_timeout` are seconds, 0.0 for none; with `hedge` None nothing is hedged.
    """

    __slots__ = (
        "hedge",
        "idle_timeout",
        "request",
        "response",
        "retries",
        "stream_timeout",
        "timeout",
        "try_timeout",
    )

    def __init__(
        self,
        timeout: float | None,
        idle_timeout: float | None = None,
        retries: Policy | None = None,
        request: Fields | None = None,
        response: Fields | None = None,
        try_timeout: float = 0.0,
        stream_timeout: float = 0.0,
        hedge: Hedge | None = None,
    ) -> None:
        self.try_timeout = try_timeout
        self.stream_timeout = stream_timeout
        self.hedge = hedge
        self.timeout = timeout
        self.idle_timeout = idle_timeout
        self.retries = retries
        self.request = request
        self.response = response


class Way:
    """What a route does with a request. The way of requests that no route is for has no `name`.

    `rewrites`: the target is forwarded changed, as `forwarded` says. `divided`: `drawn` says which
    way a request really goes.
    """

    __slots__ = (
        "_bounds",
        "_cut",
        "_prefix",
        "_ways",
        "divided",
        "leg",
        "name",
        "rewrites",
        "target",
    )

    def __init__(
        self, name: str, target: TargetEntry, match: Match, prefix_rewrite: str, leg: Leg | None
    ) -> None:
        self.name = name
        self.target = target
        self.leg = leg
        self.rewrites = bool(prefix_rewrite)
        self._prefix = prefix_rewrite.encode()
        self._cut = len(match.path_prefix.encode())
        self.divided = False
        self._bounds: list[int] = []
        self._ways: list[Way] = []

    def divide(self, shares: Sequence[tuple[int, Way]]) -> None:
        """Among these ways, each with its weight."""
        shares = [share for share in shares if share[0] > 0]
        self.divided = bool(shares)
        self._bounds = list(accumulate(weight for weight, _ in shares))
        self._ways = [way for _, way in shares]

    def drawn(self, number: int) -> Way:
        """`number` is random and has 64 bits, so that the remainder is as even as it need be."""
        return self._ways[bisect_right(self._bounds, number % self._bounds[-1])]

    def forwarded(self, target: bytes) -> bytes:
        """A request target that this way's route is for, with the matched part of its path
        replaced."""
        if self._cut:
            return self._prefix + target[self._cut :]
        _, mark, query = target.partition(b"?")
        return self._prefix + mark + query


def route_way(
    route: Route, upstream: Upstream, targets: Mapping[str, TargetEntry], budget: Budget
) -> Way:
    retries = policy(route.retries, budget)
    target = route.target or upstream.target
    return _way(route, target, route.splits, route.timeout, retries, targets, budget)


def default_way(upstream: Upstream, targets: Mapping[str, TargetEntry], budget: Budget) -> Way:
    """Of what no route is for."""
    return _way(_SILENT, upstream.target, upstream.splits, upstream.timeout, None, targets, budget)


def _way(
    route: Route,
    target: Target,
    splits: Sequence[Split],
    timeout: float | None,
    retries: Policy | None,
    targets: Mapping[str, TargetEntry],
    budget: Budget,
) -> Way:
    idle_timeout = route.idle_timeout
    per_try = route.retries.per_try_timeout

    def way(target_id: str, request: FieldChanges, response: FieldChanges) -> Way:
        # As with Envoy: the split's changes come first, and the route's after them.
        asked = fields(request, route.request_fields)
        answered = fields(response, route.response_fields)
        to = targets[target_id]
        try_timeout = (to.tries.per_try_timeout if per_try is None else per_try) or 0.0
        stream_timeout = to.stream_timeout
        hedge = None
        if to.tries.hedge if route.hedge is None else route.hedge:
            hedge = Hedge(to.observed(), budget)
        said = (timeout, idle_timeout, retries, asked, answered, hedge)
        leg = None
        if try_timeout or stream_timeout or any(one is not None for one in said):
            leg = Leg(
                timeout,
                idle_timeout,
                retries,
                asked,
                answered,
                try_timeout,
                stream_timeout,
                hedge,
            )
        return Way(route.name, to, route.match, route.prefix_rewrite, leg)

    whole = way(target.id, _UNCHANGED, _UNCHANGED)
    whole.divide(
        [
            (split.weight, way(split.target.id, split.request_fields, split.response_fields))
            for split in splits
        ]
    )
    return whole
