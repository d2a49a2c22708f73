"""Services that an operator holds back: in maintenance, or draining first.

A drain is announced (warning), then the service is out (critical) and what is under way ends, and
when nothing is, or its time is over, the service is in maintenance until it is released.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

NOTICE = 2.0
"""Seconds of warning before a drained service is critical: callers shift by weight first."""
SETTLE = 2.0
"""Seconds that a service is critical before an idle one counts as drained: its callers hear of it
within about one."""
MAINTENANCE_CHECK = "_service_maintenance:"
"""How Consul itself marks maintenance, in check ids; with it `consul maint` shows it."""
NOTES = "fleetmesh: "
"""Begins the notes of our maintenance: what others put in maintenance stays there."""
NEVER = "87600h"
"""The TTL of checks that only say what we say."""


class HoldKind(enum.StrEnum):
    MAINTENANCE = "maintenance"
    DRAIN = "drain"


class Phase(enum.StrEnum):
    """What Consul is told of a held service."""

    ANNOUNCED = "announced"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


class Hold(msgspec.Struct, frozen=True):
    """`since` is wall time in seconds, `within` how many a drain may take, `left` how many
    exchanges were still under way when it was over (None before)."""

    service: str
    kind: HoldKind
    why: str = ""
    since: float = 0.0
    within: float = 0.0
    left: int | None = None


class Held(msgspec.Struct, frozen=True):
    """A service's phase, and the reason that Consul shows."""

    phase: Phase
    why: str


def phase(hold: Hold, now: float) -> Phase:
    if hold.kind is HoldKind.MAINTENANCE or hold.left is not None:
        return Phase.MAINTENANCE
    return Phase.ANNOUNCED if now < hold.since + NOTICE else Phase.DRAINING


def held(holds: Iterable[Hold], now: float) -> dict[str, Held]:
    """By service; of several holds on one the furthest counts."""
    order = list(Phase)
    found: dict[str, Held] = {}
    for hold in holds:
        one = Held(phase(hold, now), hold.why or hold.kind.value)
        before = found.get(hold.service)
        if before is None or order.index(one.phase) > order.index(before.phase):
            found[hold.service] = one
    return found


def progressed(
    holds: tuple[Hold, ...], under_way: Mapping[str, int], now: float, told: Collection[str]
) -> tuple[Hold, ...]:
    """`holds` with those drains ended that are idle or out of time. `under_way` counts each
    service's exchanges and relayed connections; callers hear from Consul of those in `told`."""
    return tuple(
        _progressed(hold, under_way.get(hold.service, 0), now, hold.service in told)
        for hold in holds
    )


def _progressed(hold: Hold, under_way: int, now: float, told: bool) -> Hold:
    if hold.kind is not HoldKind.DRAIN or hold.left is not None:
        return hold
    idle = told and not under_way and now >= hold.since + NOTICE + SETTLE
    return replace(hold, left=under_way) if idle or now >= hold.since + hold.within else hold


def with_hold(holds: tuple[Hold, ...], more: Hold) -> tuple[Hold, ...]:
    """A hold of the same kind is kept, but for a reason that is given anew: who asks twice does
    not begin a drain again."""
    for hold in holds:
        if (hold.service, hold.kind) == (more.service, more.kind):
            again = replace(hold, why=more.why or hold.why)
            return tuple(again if one is hold else one for one in holds)
    return (*holds, more)


def without(holds: tuple[Hold, ...], service: str, kind: HoldKind) -> tuple[Hold, ...]:
    return tuple(hold for hold in holds if (hold.service, hold.kind) != (service, kind))


def checks(registration_id: str, hold: Held | None) -> list[dict[str, Any]]:
    """What stands in the registration that tells of the hold. Each phase has an id of its own:
    Consul keeps the status of a check that it knows."""
    if hold is None:
        return []
    ids = {
        Phase.ANNOUNCED: (f"{registration_id}:leaving", "Draining", "warning"),
        Phase.DRAINING: (f"{registration_id}:draining", "Draining", "critical"),
        Phase.MAINTENANCE: (
            f"{MAINTENANCE_CHECK}{registration_id}",
            "Service Maintenance Mode",
            "critical",
        ),
    }
    check_id, name, status = ids[hold.phase]
    return [_said(check_id, name, status, NOTES + hold.why)]


def foreign_maintenance(registration_id: str, notes: str) -> dict[str, Any]:
    """The check of somebody else's maintenance, which a registration would remove."""
    name = "Service Maintenance Mode"
    return _said(f"{MAINTENANCE_CHECK}{registration_id}", name, "critical", notes)


def _said(check_id: str, name: str, status: str, notes: str) -> dict[str, Any]:
    return {"CheckID": check_id, "Name": name, "Notes": notes, "TTL": NEVER, "Status": status}
