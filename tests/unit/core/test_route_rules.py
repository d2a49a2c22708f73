"""What cannot be served as a route is a problem at its place, before any request comes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.support.worker import upstream

from fleetmesh.core.route_rules import problems, upstream_problems
from fleetmesh.model.traffic import (
    Balancing,
    FieldMatch,
    HashPolicy,
    Limits,
    Match,
    QueryMatch,
    Route,
    Split,
)


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


API, OTHER = upstream("api", 1), upstream("other", 2).target
FULL = replace(
    API,
    target=replace(
        API.target,
        failover=(OTHER.id,),
        balancing=Balancing(
            "ring_hash",
            hash_policies=(
                HashPolicy(header=":authority"),
                HashPolicy(cookie="user", cookie_ttl=0.0, cookie_path="/a"),
                HashPolicy(query="q"),
                HashPolicy(source_address=True, terminal=True),
            ),
        ),
        limits=Limits(1, 1, 1),
    ),
    spares=(OTHER,),
    routes=(Route("r", splits=(Split(9999, OTHER), Split(1, OTHER))),),
)


def test_a_good_upstream_has_no_problem() -> None:
    assert upstream_problems(FULL, "u") == []


def hashed(policy: HashPolicy) -> Balancing:
    return Balancing("maglev", hash_policies=(policy,))


@pytest.mark.parametrize(
    ("change", "told_so"),
    [
        ({"failover": ("nobody",)}, "u.target.failover[0]: there is no target 'nobody'. Add it"),
        ({"failover": (API.target.id,)}, "u.target.failover[0]: is the target itself"),
        ({"balancing": Balancing("fair")}, "u.target.balancing.policy: 'fair' is not known here"),
        ({"balancing": Balancing(choice_count=0)}, "u.target.balancing.choice_count: is less"),
        ({"balancing": Balancing(minimum_ring_size=0)}, "u.target.balancing.minimum_ring_size:"),
        ({"limits": Limits(max_connections=0)}, "u.target.limits.max_connections: 0 would let"),
        ({"balancing": hashed(HashPolicy())}, "u.target.balancing.hash_policies[0]: hashes noth"),
        (
            {"balancing": hashed(HashPolicy(header="a", query="b"))},
            "u.target.balancing.hash_policies[0]: has header and query. Give one of",
        ),
        (
            {"balancing": hashed(HashPolicy(header="a b"))},
            'u.target.balancing.hash_policies[0].header: "a b" is no name of a field',
        ),
        (
            {"balancing": hashed(HashPolicy(cookie="a\r\nb"))},
            "u.target.balancing.hash_policies[0].cookie:",
        ),
        (
            {"balancing": hashed(HashPolicy(cookie="a", cookie_path="/;\r\nx: y"))},
            "u.target.balancing.hash_policies[0].cookie_path:",
        ),
        (
            {"balancing": hashed(HashPolicy(cookie="a", cookie_ttl=-1.0))},
            "u.target.balancing.hash_policies[0].cookie_ttl: -1 is no time to live",
        ),
        (
            {"balancing": hashed(HashPolicy(header="a", cookie_ttl=1.0))},
            "u.target.balancing.hash_policies[0]: has a cookie's lifetime or path, but no cookie",
        ),
    ],
)
def test_a_target_at_fault_is_told(change: dict[str, object], told_so: str) -> None:
    found = upstream_problems(replace(FULL, target=replace(FULL.target, **change)), "u")
    assert len(found) == 1, found
    assert str(found[0]).startswith(told_so)


@pytest.mark.parametrize(
    ("weights", "told_so"),
    [
        ((9999,), ["u.splits: the weights make 9999. Let them make 10000, which is 100 %"]),
        ((10001, -1), ["u.splits[0].weight: 10001 is not from 0", "u.splits[1].weight: -1 is not"]),
        ((10000, 0), []),
    ],
)
def test_weights_make_the_whole(weights: tuple[int, ...], told_so: list[str]) -> None:
    splits = tuple(Split(weight, OTHER) for weight in weights)
    found = [str(problem) for problem in upstream_problems(replace(API, splits=splits), "u")]
    assert [text.startswith(told) for text, told in zip(found, told_so, strict=True)] == [
        True
    ] * len(told_so)
    route = Route("r", splits=splits)
    assert len(told(route)) == len(told_so)


def test_one_id_is_one_target_wherever_it_stands() -> None:
    other = replace(OTHER, sni="other")
    found = upstream_problems(replace(FULL, splits=(Split(10000, other),)), "u")
    assert {str(problem).split(":")[0] for problem in found} == {
        "u.routes[0].splits[0].target.id",
        "u.routes[0].splits[1].target.id",
        "u.spares[0].id",
    }


def test_times_are_seconds() -> None:
    found = problems([Route("a", timeout=-1.0, idle_timeout=float("nan"))], "routes")
    assert [problem.path for problem in found] == ["routes[0].timeout", "routes[0].idle_timeout"]
    assert not problems([Route("a", timeout=0.0, idle_timeout=0.5)], "routes")
