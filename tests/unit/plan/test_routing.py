from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetmesh.core.route_rules import problems as faults
from fleetmesh.core.routes import Matcher
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.traffic import FieldMatch, Match, Retries, Target
from fleetmesh.plan.chain_answer import ChainAnswer
from fleetmesh.plan.routing import Routing, routing


def target(name: str) -> Target:
    return Target(name, name, "dc1", name, SpiffeId("t", "dc1", name))


TARGETS = {name: target(name) for name in ("v1", "v2", "v3")}
CLOSED = target("closed")
CATCH_ALL = {
    "Definition": {"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"Service": "api"}},
    "NextNode": "v1",
}


class Fields:
    def __init__(self, **fields: str) -> None:
        self._fields = fields

    def field(self, name: bytes) -> bytes | None:
        value = self._fields.get(name.decode())
        return None if value is None else value.encode()


def routed(
    *routes: dict[str, Any], start: str = "router", timeouts: Any = None, **nodes: Any
) -> Routing:
    """Resolvers `v1` to `v3` lead to the targets of those names; Consul's last route to `v1`."""
    resolvers = {
        name: {
            "Type": "resolver",
            "Resolver": {"Target": name, "RequestTimeout": (timeouts or {}).get(name, "")},
        }
        for name in TARGETS
    }
    body = {
        "ServiceName": "api",
        "Datacenter": "dc1",
        "StartNode": start,
        "Nodes": resolvers
        | {"router": {"Type": "router", "Routes": [*routes, CATCH_ALL]}}
        | {name: {"Type": "splitter", "Splits": splits} for name, splits in nodes.items()},
    }
    return routing(msgspec.convert({"Chain": body}, ChainAnswer).chain, TARGETS, CLOSED)


def rule(to: str = "v2", destination: dict[str, Any] | None = None, **http: Any) -> dict[str, Any]:
    definition = {"Match": {"HTTP": http}, "Destination": destination}
    return {"Definition": definition, "NextNode": to}


def test_the_last_route_is_the_upstreams_own_course() -> None:
    found = routed(rule(PathExact="/x"))
    assert found.default.target.id == "v1"
    assert [(route.name, route.match, route.target) for route in found.routes] == [
        ("api/0", Match(path_exact="/x"), TARGETS["v2"])
    ]


@pytest.mark.parametrize("destination", [{"RequestTimeout": "1s"}, {"NumRetries": 2}])
def test_a_catch_all_that_asks_for_something_stays_a_route(destination: dict[str, Any]) -> None:
    found = routed(rule("v3", destination))
    assert found.routes[0].match == Match()
    assert found.routes[0].target == TARGETS["v3"]
    assert found.default.target.id == "v1"


@pytest.mark.parametrize(
    ("said", "retries"),
    [
        ({}, Retries()),
        ({"NumRetries": 3}, Retries(3)),
        ({"RetryOnConnectFailure": True}, Retries(1, ("connect-failure",))),
        ({"RetryOnStatusCodes": [503]}, Retries(1, (), (503,))),
        ({"RetryOn": ["reset"]}, Retries(1, ("reset",))),
        (
            {"NumRetries": 4, "RetryOnConnectFailure": True, "RetryOn": ["5xx"]},
            Retries(4, ("connect-failure", "5xx")),
        ),
    ],
)
def test_retries_are_one_where_no_number_is_said(said: dict[str, Any], retries: Retries) -> None:
    assert routed(rule("v2", said, PathExact="/x")).routes[0].retries == retries


@pytest.mark.parametrize(
    ("route", "resolver", "timeout"),
    [
        ("", "", None),
        ("", "20s", 20.0),
        ("", 20_000_000_000, 20.0),
        ("4s", "20s", 4.0),
        ("-1s", "20s", 0.0),
        ("", "-1s", 0.0),
    ],
)
def test_a_routes_timeout_goes_before_its_resolvers(
    route: str, resolver: str | int, timeout: float | None
) -> None:
    found = routed(rule("v2", {"RequestTimeout": route}, PathExact="/x"), timeouts={"v2": resolver})
    assert found.routes[0].timeout == timeout


@pytest.mark.parametrize(
    ("timeouts", "timeout"),
    [
        ({}, None),
        ({"v1": "3s", "v2": "3s"}, 3.0),
        ({"v1": "3s", "v2": "9s"}, 9.0),
        ({"v1": "3s"}, 15.0),
        ({"v1": "40s"}, 40.0),
        ({"v1": "-1s"}, 0.0),
    ],
)
def test_of_the_timeouts_of_a_split_the_longest_holds(
    timeouts: dict[str, str], timeout: float | None
) -> None:
    splits = [{"Weight": 50, "NextNode": "v1"}, {"Weight": 50, "NextNode": "v2"}]
    assert routed(start="s", s=splits, timeouts=timeouts).default.timeout == timeout


def test_weights_are_hundredths_and_a_missing_one_is_none() -> None:
    splits = [{"NextNode": "v1"}, {"Weight": 0.01, "NextNode": "v2"}]
    splits.append({"Weight": 99.99, "NextNode": "v3"})
    found = routed(start="s", s=splits).default
    assert [(split.weight, split.target.id) for split in found.splits] == [
        (0, "v1"),
        (1, "v2"),
        (9999, "v3"),
    ]
    assert found.target.id == "v3"


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ((33.336, 33.336, 33.328), (3333, 3334, 3333)),
        ((49.994, 49.994, 0.012), (5000, 4999, 1)),
        ((100.0, 0.004, 0.0), (10000, 0, 0)),
    ],
)
def test_nested_weights_that_are_no_hundredths_make_a_whole(
    given: tuple[float, ...], weights: tuple[int, ...]
) -> None:
    """As Consul flattens nested splitters: the greatest share bears what rounding does."""
    splits = [{"Weight": share, "NextNode": f"v{at}"} for at, share in enumerate(given, 1)]
    found = routed(start="s", s=splits).default
    assert tuple(split.weight for split in found.splits) == weights
    assert sum(weights) == 10000
    (route,) = routed({"Definition": {}, "NextNode": "s"}, s=splits).routes
    assert tuple(split.weight for split in route.splits) == weights


def test_weights_that_are_no_whole_stay_a_fault() -> None:
    splits = [{"Weight": 50, "NextNode": "v1"}, {"Weight": 40, "NextNode": "v2"}]
    found = routed({"Definition": {}, "NextNode": "s"}, s=splits)
    assert found.routes[0].splits == ()
    assert "the weights make 9000" in str(found.problems[0])


def test_prefix_rewrite_of_every_path() -> None:
    (route,) = routed(rule("v2", {"PrefixRewrite": "/v2/"}, PathPrefix="/")).routes
    assert (route.match.path_prefix, route.prefix_rewrite) == ("/", "/v2/")
    assert faults([route], "") == []


@pytest.mark.parametrize(
    ("http", "request_path", "fields"),
    [
        ({"PathRegex": "/("}, b"/anything", {}),
        ({"PathRegex": "/(?=look)"}, b"/look", {}),
        ({"PathPrefix": "/a", "Header": [{"Name": "x", "Regex": "("}]}, b"/ab", {"x": "1"}),
        ({"PathPrefix": "/a", "Header": [{"Name": "x"}]}, b"/ab", {}),
        ({"PathExact": "no"}, b"/no", {}),
        ({"QueryParam": [{"Name": "q", "Regex": "*"}]}, b"/?q=1", {}),
    ],
)
def test_rule_that_cannot_be_honoured_refuses_what_it_may_be_for(
    http: dict[str, Any], request_path: bytes, fields: dict[str, str]
) -> None:
    """Before a rule that would have it."""
    found = routed(rule(**http), rule("v3"))
    assert [route.target and route.target.id for route in found.routes] == ["closed", "v3"]
    matcher = Matcher([route.match for route in found.routes])
    assert matcher.find(b"GET", request_path, Fields(**fields)) == 0
    assert found.problems
    for problem in found.problems:
        assert problem.path.startswith("service-router/api: Routes[0].")
        assert "503" in problem.rule
    assert faults(found.routes, "") == []


def test_a_refusing_rule_keeps_its_sound_criteria() -> None:
    found = routed(
        rule(
            PathPrefix="/a",
            Header=[{"Name": "x", "Regex": "("}, {"Name": "y", "Exact": "1"}],
            Methods=["get"],
        )
    )
    assert found.routes[0].match == Match(
        path_prefix="/a", headers=(FieldMatch("y", exact="1"),), methods=("GET",)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"Set": {"x y": "1"}},
        {"Add": {"x": "1\r\ny: 2"}},
        {"Remove": ["x:"]},
    ],
)
def test_field_changes_that_would_make_another_message_refuse(changes: dict[str, Any]) -> None:
    found = routed(rule("v2", {"RequestHeaders": changes}, PathExact="/x"))
    assert found.routes[0].target == CLOSED
    assert "RequestHeaders" in found.problems[0].path
    split = {"Weight": 100, "NextNode": "v1", "Definition": {"ResponseHeaders": changes}}
    found = routed(start="s", s=[split])
    assert found.default.splits[0].target == CLOSED
    assert found.problems[0].path.startswith("service-splitter/api: Splits[0].ResponseHeaders")


@pytest.mark.parametrize("start", ["nowhere", "s"])
def test_node_that_is_not_there_is_closed_and_told(start: str) -> None:
    found = routed(start=start, s=[])
    assert found.default.target == CLOSED
    assert "503" in found.problems[0].rule


@pytest.mark.parametrize(
    ("header", "value", "matches"),
    [
        ({"Contains": "b.c"}, "ab.cd", True),
        ({"Contains": "b.c"}, "abxcd", False),
        ({"Exact": "Abc", "IgnoreCase": True}, "aBC", True),
        ({"Exact": "Abc", "IgnoreCase": True}, "aBCd", False),
        ({"Prefix": "Ab", "IgnoreCase": True}, "aBC", True),
        ({"Suffix": "bC", "IgnoreCase": True}, "aBc", True),
        ({"Suffix": "bC", "IgnoreCase": True}, "aBcd", False),
    ],
)
def test_newer_kinds_of_field_matches(header: dict[str, Any], value: str, matches: bool) -> None:
    (route,) = routed(rule(Header=[{"Name": "x"} | header])).routes
    assert route.target == TARGETS["v2"]
    assert (Matcher([route.match]).find(b"GET", b"/", Fields(x=value)) == 0) is matches
