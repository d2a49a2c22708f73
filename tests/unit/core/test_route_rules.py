"""What cannot be served as a route is a problem at its place, before any request comes."""

from __future__ import annotations

import pytest

from fleetmesh.core.route_rules import problems
from fleetmesh.model.traffic import FieldMatch, Match, QueryMatch, Route


def told(*routes: Route) -> list[str]:
    return [str(problem) for problem in problems(routes, "routes")]


def test_a_good_route_has_no_problem() -> None:
    full = Match(
        path_prefix="/a",
        headers=(FieldMatch(":authority", regex="api.*"), FieldMatch("x-a", present=True)),
        query=(QueryMatch("q", exact="1"),),
        methods=("get",),
    )
    assert told(Route("a", full, prefix_rewrite="/b%20/"), Route("b")) == []


@pytest.mark.parametrize(
    ("route", "told_so"),
    [
        (Route(""), "routes[0].name: is empty"),
        (
            Route("r", Match(path_exact="/a", path_regex="/b")),
            "routes[0].match: has path_exact and path_regex",
        ),
        (Route("r", Match(path_prefix="a")), 'routes[0].match.path_prefix: "a" does not begin'),
        (Route("r", Match(path_exact="/a?b")), "routes[0].match.path_exact: paths are matched"),
        (Route("r", Match(path_regex="/(a")), "routes[0].match.path_regex: is no regex of RE2"),
        (
            Route("r", Match(path_regex="/(?=a)")),
            "routes[0].match.path_regex: is no regex of RE2: invalid perl operator: (?=",
        ),
        (
            Route("r", Match(headers=(FieldMatch("a", present=True), FieldMatch("a", regex="*")))),
            "routes[0].match.headers[1].regex: is no regex of RE2",
        ),
        (
            Route("r", Match(headers=(FieldMatch("a"),))),
            "routes[0].match.headers[0]: matches nothing",
        ),
        (
            Route("r", Match(headers=(FieldMatch("a", exact="1", suffix="1"),))),
            "routes[0].match.headers[0]: has exact and suffix",
        ),
        (
            Route("r", Match(headers=(FieldMatch(":path", exact="/"),))),
            'routes[0].match.headers[0].name: ":path" is no name of a field',
        ),
        (
            Route("r", Match(query=(QueryMatch("a", regex="["),))),
            "routes[0].match.query[0].regex: is no regex of RE2",
        ),
        (Route("r", Match(query=(QueryMatch("a"),))), "routes[0].match.query[0]: matches nothing"),
        (
            Route("r", Match(query=(QueryMatch("", present=True),))),
            "routes[0].match.query[0].name:",
        ),
        (
            Route("r", Match(methods=("GET", "a b"))),
            'routes[0].match.methods[1]: "a b" is no method',
        ),
        (
            Route("r", Match(path_regex="/a"), prefix_rewrite="/b"),
            "routes[0].prefix_rewrite: needs a match by path_exact or path_prefix",
        ),
        (
            Route("r", Match(path_prefix="/a"), prefix_rewrite="/b HTTP/1.1\r\nx: y"),
            "routes[0].prefix_rewrite: '/b HTTP/1.1\\r\\nx: y' is no path",
        ),
        (Route("r", Match(path_prefix="/a"), prefix_rewrite="b"), "routes[0].prefix_rewrite: 'b'"),
        (Route("r", Match(path_exact="/a"), prefix_rewrite="/b?c"), "routes[0].prefix_rewrite:"),
    ],
)
def test_a_fault_is_named_at_its_place(route: Route, told_so: str) -> None:
    found = told(route)
    assert len(found) == 1, found
    assert found[0].startswith(told_so)


def test_names_are_told_apart() -> None:
    assert told(Route("a"), Route("b"), Route("a")) == [
        "routes[2].name: a is the name of a route above"
    ]


def test_all_faults_are_told() -> None:
    """One does not hide another."""
    first = Route("", Match(path_regex="(", methods=("",)))
    second = Route("r", Match(query=(QueryMatch("", regex="("),)))
    assert len(told(first, second)) == 5


def test_times_are_seconds() -> None:
    found = problems([Route("a", timeout=-1.0, idle_timeout=float("nan"))], "routes")
    assert [problem.path for problem in found] == ["routes[0].timeout", "routes[0].idle_timeout"]
    assert not problems([Route("a", timeout=0.0, idle_timeout=0.5)], "routes")
