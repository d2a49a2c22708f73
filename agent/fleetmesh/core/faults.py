"""Which requests an injected fault strikes.

An upstream without faults has no `Faults`, and nothing on a request's way asks for any: they stand
beside its routes, where only requests pass that have something to choose.
"""

from __future__ import annotations

from collections.abc import Iterable

from fleetmesh.balance.hashing import mixed
from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.route_rules import WHOLE
from fleetmesh.core.routes import Matcher
from fleetmesh.model.fault import HEADER, Fault
from fleetmesh.model.report import FaultCount
from fleetmesh.model.traffic import Match

Hits = dict[tuple[str, str, str, str], int]
"""How many requests were struck, by the fault's id, source, destination and kind."""


class Pause(Lane):
    """Where a delayed request goes first: a lane that has no connection and leads nowhere for
    `seconds`."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        super().__init__("", "", 0)
        self.seconds = seconds


class FaultRule:
    """A fault linked for requests. `status` is that of its answer where it aborts, 0 where it
    delays along `pause`; `line` is the field line of every answer that it had a part in."""

    __slots__ = ("_callers", "_matcher", "_share", "fault", "line", "pause", "status", "until")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.until = fault.until
        self.status = fault.abort
        self.pause = Pause(fault.delay)
        self.line = f"{HEADER}: {fault.kind.value};id={fault.id}\r\n".encode()
        self._share = fault.share
        self._callers = frozenset(fault.callers)
        self._matcher = Matcher([Match(headers=fault.headers)]) if fault.headers else None

    def concerns(self, source: str, request: RequestHead, now: float) -> bool:
        """Whether requests like this one are struck, some of them or all."""
        if now >= self.until or source not in self._callers:
            return False
        matcher = self._matcher
        return matcher is None or matcher.find(request.method, request.target, request) == 0

    def strikes(self, drawn: int) -> bool:
        """`drawn` is random and has 64 bits."""
        return drawn % WHOLE < self._share


class Faults:
    """Those of one upstream, in the order they were injected. A request suffers one at most, and
    each draws for itself. `hits` are counted for all upstreams together."""

    __slots__ = ("_hits", "rules")

    def __init__(self, rules: list[FaultRule], hits: Hits) -> None:
        self.rules = rules
        self._hits = hits

    def strike(self, source: str, request: RequestHead, now: float, drawn: int) -> FaultRule | None:
        """The fault that a new `request` of `source` suffers; it is counted."""
        for rule in self.rules:
            drawn = mixed(drawn)
            if rule.concerns(source, request, now) and rule.strikes(drawn):
                fault = rule.fault
                key = (fault.id, source, fault.service, fault.kind.value)
                self._hits[key] = self._hits.get(key, 0) + 1
                return rule
        return None


def linked(faults: Iterable[Fault], hits: Hits) -> dict[str, Faults]:
    """By upstream."""
    rules: dict[str, list[FaultRule]] = {}
    for fault in faults:
        rules.setdefault(fault.service, []).append(FaultRule(fault))
    return {service: Faults(found, hits) for service, found in rules.items()}


def kept(hits: Hits, faults: Iterable[Fault]) -> Hits:
    """`hits` with those of faults that are over put together under no id: an agent that lives long
    sees many."""
    ids = {fault.id for fault in faults}
    sums: Hits = {}
    for (fault_id, source, destination, kind), count in hits.items():
        key = (fault_id if fault_id in ids else "", source, destination, kind)
        sums[key] = sums.get(key, 0) + count
    return sums


def counts(hits: Hits) -> tuple[FaultCount, ...]:
    return tuple([FaultCount(*key, count) for key, count in hits.items()])
