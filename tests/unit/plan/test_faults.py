"""Who may inject what, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.plan.test_explain import api, explained, get, snapshot

from fleetmesh.core.route_rules import WHOLE
from fleetmesh.model.fault import Fault, FaultKind, Order, Permission
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import FaultCount, Report
from fleetmesh.model.traffic import FieldMatch, Protocol, Upstream
from fleetmesh.plan import faults
from fleetmesh.plan.defaults import ServiceDefaults
from fleetmesh.plan.explain import Knowledge
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.totals import retire, total

HERE = frozenset({"web", "shop"})
BOTH = Permission("api", ("shop", "web"))
ORDER = Order("api", 5.0, delay=2.0)
FAULT = Fault("f1", "api", ("web",), 500, delay=2.0, until=160.0, by="root", why="tests")


def judged(
    order: Order = ORDER,
    upstream: Upstream | None = None,
    permission: Permission = BOTH,
    active: int = 0,
) -> Any:
    return faults.judged(order, upstream or api(), HERE, permission, active)


def test_the_callers_that_may_suffer_it() -> None:
    assert judged() == ("shop", "web")
    assert judged(replace(ORDER, source="web")) == ("web",)
    assert judged(permission=Permission("api", ("web", "elsewhere"))) == ("web",)
    assert judged(permission=Permission("api", ("*",))) == ("shop", "web")


@pytest.mark.parametrize(
    ("permission", "source", "rule"),
    [
        ((), "", "does not name shop or web"),
        (("other",), "web", "names other, not web"),
    ],
)
def test_without_permission_the_key_is_named(
    permission: tuple[str, ...], source: str, rule: str
) -> None:
    (problem,) = judged(replace(ORDER, source=source), permission=Permission("api", permission))
    assert problem.path == "service-defaults/api: Meta[fleetmesh-allow-faults]"
    assert problem.rule == f"{rule}: faults in its calls are not allowed"
    assert 'Meta = { fleetmesh-allow-faults = "' in problem.remedy


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"delay": 0.0}, "--delay, --abort"),
        ({"abort": 503}, "--delay, --abort"),
        ({"delay": 300.1}, "--delay"),
        ({"delay": -1.0}, "--delay"),
        ({"delay": float("nan")}, "--delay"),
        ({"delay": 0.0, "abort": 200}, "--abort"),
        ({"delay": 0.0, "abort": 600}, "--abort"),
        ({"percent": 0.0}, "--percent"),
        ({"percent": 100.5}, "--percent"),
        ({"percent": float("nan")}, "--percent"),
        ({"seconds": 0.0}, "--for"),
        ({"seconds": 3601.0}, "--for"),
        ({"why": "x" * 501}, "--why"),
        ({"headers": (("x y", None),)}, "-H"),
        ({"headers": (("x", "ä"),)}, "-H"),
        ({"headers": (("x", "a\nb"),)}, "-H"),
        ({"source": "nobody"}, "--from"),
    ],
)
def test_each_wrong_part_is_named(changes: dict[str, Any], path: str) -> None:
    (problem,) = judged(replace(ORDER, **changes))
    assert problem.path == path


def test_everything_wrong_is_told_at_once() -> None:
    order = Order("nobody", 0.0, seconds=0.0)
    problems = faults.judged(order, None, HERE, Permission("nobody"), faults.MOST)
    assert isinstance(problems, list)
    assert [problem.path for problem in problems] == [
        "--delay, --abort",
        "--percent",
        "--for",
        "faults",
        "SERVICE",
    ]
    (problem,) = judged(upstream=api(Protocol.TCP))
    assert problem.rule == "api is tcp: there are no requests to delay or to abort"
    assert judged(upstream=api(Protocol.AUTO)) == ("shop", "web")


def test_what_is_made_of_an_order() -> None:
    order = replace(ORDER, headers=(("x-user", "test"), ("x-any", None)), why=" a\n b ")
    made = faults.made(order, ("web",), "f1", "root", 100.0, 1e9)
    assert made.share == 500
    assert made.headers == (FieldMatch("x-user", exact="test"), FieldMatch("x-any", present=True))
    assert (made.until, made.since, made.why, made.kind) == (700.0, 1e9, "a b", FaultKind.DELAY)
    assert faults.made(replace(ORDER, percent=0.01), (), "", "", 0, 0).share == 1
    assert faults.made(replace(ORDER, percent=100), (), "", "", 0, 0).share == WHOLE
    assert faults.does(made) == (
        "5 % of the requests from web to api with x-user: test and x-any are delayed by 2s"
    )


def test_a_fault_goes_with_its_permission_and_its_callers() -> None:
    fault = replace(FAULT, callers=("shop", "web"))
    assert faults.kept(fault, HERE, BOTH) == fault
    assert faults.kept(fault, {"web"}, BOTH) == replace(fault, callers=("web",))
    assert faults.kept(fault, HERE, Permission("api", ("shop",))) == replace(
        fault, callers=("shop",)
    )
    assert faults.kept(fault, HERE, Permission("api")) is None


def test_the_permission_is_that_of_the_callees_own_entry() -> None:
    meta = {"fleetmesh-allow-faults": "web shop"}
    observed = Observed(
        service_defaults=(ServiceDefaults("api", meta=meta), ServiceDefaults("web", meta={}))
    )
    assert faults.permission("api", observed) == Permission("api", ("web", "shop"))
    assert faults.permission("v1.api.default.dc1", observed).callers == ("web", "shop")
    assert faults.permission("web", observed) == Permission("web")
    assert faults.permission("api", Observed()) == Permission("api")


def test_its_status_counts_what_it_struck() -> None:
    counts = (FaultCount("f1", "web", "api", "delay", 3), FaultCount("", "web", "api", "delay", 9))
    shown = faults.status(FAULT, counts, 100.0)
    assert (shown.struck, shown.seconds_left, shown.percent) == (3, 60.0, 5.0)
    assert faults.status(FAULT, counts, 200.0).seconds_left == 0.0


def test_counts_of_workers_are_summed_and_outlive_them() -> None:
    one = Report(1, 1, faults=(FaultCount("f1", "web", "api", "delay", 3),))
    assert total((one, retire(one))).faults == (FaultCount("f1", "web", "api", "delay", 6),)


def test_explanations_name_faults_on_the_way() -> None:
    header = FieldMatch("x-user", exact="test")
    knowledge = Knowledge(now=400.0, faults=(replace(FAULT, headers=(header,)),), monotonic=100.0)
    notes = explained(snapshot(api()), get(x_user="test"), knowledge).notes
    (note,) = notes
    assert note == (
        "fault f1 is injected: 5 % of the requests from web to api with x-user: test are delayed "
        "by 2s, for another 60s"
    )
    assert explained(snapshot(api()), get(), knowledge).notes == ()
    later = replace(knowledge, monotonic=160.0)
    assert explained(snapshot(api()), get(x_user="test"), later).notes == ()
    tcp = replace(get(x_user="test"), method="")
    assert not any("fault" in note for note in explained(snapshot(api()), tcp, knowledge).notes)


def test_a_problem_is_one_line() -> None:
    (problem,) = judged(permission=Permission("api"))
    assert isinstance(problem, Problem)
    assert "\n" not in str(problem)
