from __future__ import annotations

from fleetmesh.plan.uses import BUSY, Use, Uses, declared
from fleetmesh.settings import ServiceSettings, Settings


def two(_: str) -> int:
    return 2


def test_use_keeps_its_beginning_and_is_let_go_by_its_end() -> None:
    uses = Uses().used(("a", "b"), 10.0).used(("a",), 1000.0)
    assert uses.undeclared == {"a": Use(10.0, 1000.0), "b": Use(10.0, 10.0)}
    assert uses.idle(1809.0, 1800.0) == ()
    assert uses.idle(1810.0, 1800.0) == ("b",)
    assert uses.without(uses.idle(1810.0, 1800.0)).undeclared.keys() == {"a"}


def test_least_recently_used_leaves_first() -> None:
    uses = Uses().used(("b",), 5.0).used(("a",), 10.0).used(("c",), 500.0)
    assert uses.surplus(two, 6, 500.0) == ()
    assert uses.surplus(two, 5, 500.0) == ("b",)
    assert uses.surplus(two, 2, 500.0) == ("b", "a")


def test_busy_ones_stay_and_the_newcomer_is_turned_away() -> None:
    uses = Uses().used(("old",), 0.0).used(("older",), 0.0).used(("new",), 300.0)
    uses = uses.used(("old", "older"), 301.0)
    assert uses.surplus(two, 4, 300.0 + BUSY) == ("new",)
    assert uses.surplus(two, 0, 300.0 + BUSY - 1) == ("new", "older", "old")


def test_what_costs_nothing_makes_no_room() -> None:
    uses = Uses().used(("unknown", "api"), 0.0)
    assert uses.surplus({"unknown": 0, "api": 3}.__getitem__, 3, 1.0) == ()


def test_declared_are_the_upstreams_and_the_hosts_own_services() -> None:
    web = ServiceSettings(name="web", port=8080, upstreams=("api", "cart"))
    assert declared(Settings(address="10.0.0.1", services=(web,))) == {"web", "api", "cart"}
