"""What becomes of a request: the target it goes to, and what is said of it on the way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from fleetmesh.core.target import TargetEntry
from fleetmesh.model.traffic import FieldChanges, Match, Retries, Route, Split, Target, Upstream

_UNCHANGED = FieldChanges()
_ONCE = Retries()
_SILENT = Route(name="")


class Leg:
    """The route and the split that a request took, where either says more than a target.
    `timeout` is the route's or, where no route took it, the upstream's."""

    __slots__ = ("route", "split", "timeout")

    def __init__(self, route: Route | None, split: Split | None, timeout: float | None) -> None:
        self.route = route
        self.split = split
        self.timeout = timeout


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


def route_way(route: Route, upstream: Upstream, targets: Mapping[str, TargetEntry]) -> Way:
    return _way(route, route.target or upstream.target, route.splits, route.timeout, targets)


def default_way(upstream: Upstream, targets: Mapping[str, TargetEntry]) -> Way:
    """Of what no route is for."""
    return _way(None, upstream.target, upstream.splits, upstream.timeout, targets)


def _way(
    route: Route | None,
    target: Target,
    splits: Sequence[Split],
    timeout: float | None,
    targets: Mapping[str, TargetEntry],
) -> Way:
    said = route or _SILENT
    speaks = (
        timeout is not None
        or said.idle_timeout is not None
        or said.retries != _ONCE
        or _changes(said)
    )

    def way(target_id: str, split: Split | None) -> Way:
        leg = None
        if speaks or (split is not None and _changes(split)):
            leg = Leg(route, split, timeout)
        return Way(said.name, targets[target_id], said.match, said.prefix_rewrite, leg)

    whole = way(target.id, None)
    whole.divide([(split.weight, way(split.target.id, split)) for split in splits])
    return whole


def _changes(said: Route | Split) -> bool:
    return said.request_fields != _UNCHANGED or said.response_fields != _UNCHANGED
