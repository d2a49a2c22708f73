"""Who waits longest is woken first, once for every place."""

from __future__ import annotations

from fleetmesh.core.lane import Lane, Place
from fleetmesh.core.line import Line, Lines
from fleetmesh.core.table import link
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Endpoint, Limits, Protocol, Target, Upstream
from fleetmesh.settings import UpstreamSettings


class Caller:
    def __init__(self, name: str, woken: list[str]) -> None:
        self._name, self._woken = name, woken

    def wake(self) -> None:
        self._woken.append(self._name)


def test_the_first_is_woken_until_it_leaves() -> None:
    woken: list[str] = []
    one, two, three = (Caller(name, woken) for name in ("one", "two", "three"))
    line = Line(1.0, 3)
    for caller in (one, two, three):
        assert not line.full
        line.join(caller)
    assert line.full
    line.freed()
    line.freed()
    line.leave(two)
    line.leave(two)
    line.leave(one)
    line.freed()
    assert woken == ["one", "one", "three"]
    assert len(line) == 1


def test_every_way_that_a_place_becomes_free_is_told() -> None:
    woken: list[str] = []
    lane = Lane("a", "192.0.2.1", 1, expected="b")
    pool = lane.pool
    pool.line = Line(1.0, 9)
    pool.line.join(Caller("one", woken))
    pool.opening += 1
    pool.dialled()
    pool.lend()
    assert woken == ["one"]
    pool.put(Connection(), 0.0)
    pool.lend()
    assert woken == ["one"] * 2
    pool.lost()
    assert woken == ["one"] * 3


class Connection:
    born = idle_since = 0.0


def test_a_local_service_has_its_own_line() -> None:
    """A place of one is no use to another, whose certificate it would not show."""
    lines = Lines(1.0, 2)
    place = Place(Endpoint("a", "192.0.2.1", 1), "b", "", 5.0)
    place.limit(Limits(), lines)
    web, web6, shop = (place.lane(*key) for key in (("web", False), ("web", True), ("shop", False)))
    assert web.pool.line is web6.pool.line is lines.of("web")
    assert shop.pool.line is not web.pool.line
    place.limit(Limits())
    assert web.pool.line is None


def state(limits: Limits) -> Snapshot:
    endpoints = (Endpoint("a", "192.0.2.1", 1),)
    identity = SpiffeId("t", "dc1", "api")
    target = Target("api", "api", "dc1", "", identity, endpoints, limits=limits)
    return Snapshot("t", "dc1", "n", (), (), (Upstream("api", Protocol.HTTP, target),))


def test_a_line_outlives_its_table_and_takes_what_is_said_anew() -> None:
    first = link(state(Limits(queue_wait=1.0)), 1, None, 0)
    (lines,) = first.lines.values()
    line = lines.of("web")
    assert (line.patience, line.most) == (1.0, 1024)
    second = link(state(Limits(max_pending_requests=5, queue_wait=2.0)), 2, first, 0)
    assert list(second.lines.values()) == [lines]
    assert (line.patience, line.most) == (2.0, 5)
    assert link(state(Limits()), 3, second, 0).lines == {}
    kept = link(state(Limits()), 4, second, 0, UpstreamSettings(queue_wait=3.0))
    assert [lines.patience for lines in kept.lines.values()] == [3.0]
