from __future__ import annotations

import pytest
from msgspec.structs import replace

from fleetmesh.plan.holds import (
    NOTICE,
    SETTLE,
    Held,
    Hold,
    HoldKind,
    Phase,
    checks,
    foreign_maintenance,
    held,
    phase,
    progressed,
    with_hold,
    without,
)

MAINTENANCE = Hold("web", HoldKind.MAINTENANCE, "disk", since=100.0)
DRAIN = Hold("web", HoldKind.DRAIN, "kernel", since=100.0, within=30.0)


@pytest.mark.parametrize(
    ("hold", "now", "expected"),
    [
        (MAINTENANCE, 100.0, Phase.MAINTENANCE),
        (DRAIN, 100.0, Phase.ANNOUNCED),
        (DRAIN, 100.0 + NOTICE, Phase.DRAINING),
        (DRAIN, 1000.0, Phase.DRAINING),
        (replace(DRAIN, left=0), 100.0, Phase.MAINTENANCE),
        (replace(DRAIN, left=3), 100.0, Phase.MAINTENANCE),
    ],
)
def test_phases(hold: Hold, now: float, expected: Phase) -> None:
    assert phase(hold, now) is expected


def test_of_two_holds_the_furthest_counts() -> None:
    for holds in ((MAINTENANCE, DRAIN), (DRAIN, MAINTENANCE)):
        assert held(holds, 100.0) == {"web": Held(Phase.MAINTENANCE, "disk")}
    assert held((replace(DRAIN, why=""),), 100.0) == {"web": Held(Phase.ANNOUNCED, "drain")}
    assert held((), 0.0) == {}


@pytest.mark.parametrize(
    ("now", "under_way", "left"),
    [
        (100.0 + NOTICE, 0, None),  # its callers have not heard yet
        (100.0 + NOTICE + SETTLE, 0, 0),
        (100.0 + NOTICE + SETTLE, 1, None),
        (129.9, 1, None),
        (130.0, 1, 1),
        (90.0, 0, None),  # the clock was set back
    ],
)
def test_a_drain_ends_idle_or_out_of_time(now: float, under_way: int, left: int | None) -> None:
    (after,) = progressed((DRAIN,), {"web": under_way}, now, told={"web"})
    assert after.left == left


def test_a_drain_that_nobody_hears_of_ends_by_its_time_alone() -> None:
    assert progressed((DRAIN,), {}, 129.9, told=()) == (DRAIN,)
    assert progressed((DRAIN,), {}, 130.0, told=())[0].left == 0


def test_only_drains_that_run_progress() -> None:
    over = replace(DRAIN, left=2)
    assert progressed((MAINTENANCE, over), {}, 1000.0, told={"web"}) == (MAINTENANCE, over)


def test_who_asks_twice_begins_nothing_anew() -> None:
    assert with_hold((), DRAIN) == (DRAIN,)
    again = replace(DRAIN, since=120.0, why="")
    assert with_hold((DRAIN,), again) == (DRAIN,)
    (renamed,) = with_hold((DRAIN,), replace(again, why="other"))
    assert (renamed.why, renamed.since) == ("other", 100.0)
    assert with_hold((DRAIN,), MAINTENANCE) == (DRAIN, MAINTENANCE)


def test_release_ends_one_kind_of_one_service() -> None:
    other = replace(DRAIN, service="api")
    holds = (DRAIN, MAINTENANCE, other)
    assert without(holds, "web", HoldKind.DRAIN) == (MAINTENANCE, other)


def test_each_phase_has_a_check_of_its_own_that_never_expires_soon() -> None:
    """Consul would keep the status of one that it knows."""
    found = [checks("web", Held(each, "why"))[0] for each in Phase]
    assert len({check["CheckID"] for check in found}) == len(Phase)
    assert {check["TTL"] for check in found} == {"87600h"}
    assert checks("web", None) == []


def test_others_maintenance_is_written_as_it_was() -> None:
    check = foreign_maintenance("web", "by hand")
    assert (check["CheckID"], check["Notes"]) == ("_service_maintenance:web", "by hand")
