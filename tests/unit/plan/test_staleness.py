from __future__ import annotations

from fleetmesh.model.status import WatchStatus
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import (
    Watch,
    WatchCatalog,
    WatchChain,
    WatchInstances,
    WatchIntentions,
    WatchLeaf,
    WatchProxyDefaults,
    WatchRoots,
    WatchServiceDefaults,
)
from fleetmesh.plan.staleness import kind, statuses

A, B = WatchInstances(InstanceQuery("a")), WatchInstances(InstanceQuery("b"))


def told(
    answered: dict[Watch, float],
    failing: dict[Watch, str] | None = None,
    aged: dict[Watch, float] | None = None,
    running: tuple[Watch, ...] = (A, B),
) -> list[WatchStatus]:
    return list(statuses(running, answered, aged or {}, failing or {}, 100.0, 40.0))


def test_every_watch_has_a_kind() -> None:
    watches: list[Watch] = [WatchRoots(), WatchIntentions(), WatchCatalog()]
    watches += [WatchLeaf("web"), WatchChain("web"), A]
    watches += [WatchServiceDefaults(), WatchProxyDefaults()]
    assert [kind(watch) for watch in watches] == [
        "roots",
        "intentions",
        "catalog",
        "leaf:web",
        "chains",
        "instances",
        "service-defaults",
        "proxy-defaults",
    ]


def test_a_question_that_is_kept_is_not_stale() -> None:
    """Consul answers a blocking query after five minutes."""
    assert told({A: 10.0, B: 90.0}) == [WatchStatus("instances", 90.0, 0.0)]


def test_the_worst_of_a_kind_is_shown() -> None:
    assert told({A: 10.0, B: 30.0}, {B: "refused"}) == [
        WatchStatus("instances", 70.0, 70.0, "refused")
    ]


def test_an_answer_from_the_agents_memory_was_old_when_it_came() -> None:
    assert told({A: 95.0, B: 95.0}, aged={A: 600.0}) == [WatchStatus("instances", 5.0, 605.0)]


def test_what_never_was_answered_is_stale_since_the_start() -> None:
    assert told({B: 90.0}, {A: "refused"}) == [WatchStatus("instances", None, 60.0, "refused")]
    assert told({B: 90.0}) == [WatchStatus("instances", None, 0.0)]
