"""Which of many routes a request takes: every criterion, their order, and what is forwarded."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest
from tests.support.ca import spiffe

from fleetmesh.core.budget import Budget
from fleetmesh.core.entry import UpstreamEntry
from fleetmesh.core.request import RequestHead
from fleetmesh.core.routes import Matcher
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.traffic import FieldMatch, Match, Protocol, QueryMatch, Route, Target, Upstream

BUDGET = Budget(0.2, 3)


def head(method: str, target: str, *fields: tuple[str, str]) -> RequestHead:
    """A judged head, as a parser leaves it."""
    request = RequestHead()
    request.on_url(target.encode())
    request.on_header(b"Host", b"api")
    for name, value in fields:
        request.on_header(name.encode(), value.encode())
    assert request.judge(method.encode(), "1.1", 100) is None
    return request


def find(matches: Sequence[Match], request: RequestHead) -> int:
    return Matcher(matches).find(request.method, request.target, request)


def takes(match: Match, target: str = "/", *fields: tuple[str, str], method: str = "GET") -> bool:
    return find([match], head(method, target, *fields)) == 0


@pytest.mark.parametrize(
    ("match", "taken", "left"),
    [
        (Match(), ("/", "/a", "/a?b"), ("*",)),
        (Match(path_exact="/a"), ("/a", "/a?x=/b"), ("/a/", "/ab", "/A", "/%61")),
        (Match(path_prefix="/a"), ("/a", "/ab", "/a/b", "/a?b"), ("/", "/b?/a", "/A")),
        (Match(path_prefix="/a/"), ("/a/", "/a/b"), ("/a", "/a?/")),
        (Match(path_prefix="/\xff"), ("/\xff/x",), ("/\xfe",)),
        (Match(path_regex="/v[0-9]+/x"), ("/v1/x", "/v20/x?y"), ("/v/x", "/v1/xy", "/a/v1/x")),
        (Match(path_regex="/a|/b.*"), ("/a", "/bc"), ("/ab", "/c")),
        (Match(path_regex="(?i)/sum"), ("/SUM", "/sum"), ("/sun",)),
        (Match(path_regex=".*/x"), ("/x", "/a/b/x"), ("/x/y",)),
        (Match(path_regex="/.*"), ("/", "/a"), ("*",)),
    ],
)
def test_a_path(match: Match, taken: tuple[str, ...], left: tuple[str, ...]) -> None:
    """Compared as written, without the query; a regex matches the whole."""
    targets = (*taken, *left)
    method = {target: "OPTIONS" if target == "*" else "GET" for target in targets}
    assert [t for t in targets if takes(match, t, method=method[t])] == list(taken)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (FieldMatch("X-A", present=True), ("", "one", "two", "one, two")),
        (FieldMatch("X-A", present=True, invert=True), (None,)),
        (FieldMatch("x-a", exact="one"), ("one",)),
        (FieldMatch("x-a", exact="one", invert=True), ("", "two", "one, two")),
        (FieldMatch("x-a", exact="one, two"), ("one, two",)),
        (FieldMatch("x-a", prefix="on"), ("one", "one, two")),
        (FieldMatch("x-a", prefix="on", invert=True), ("", "two")),
        (FieldMatch("x-a", suffix="o"), ("two", "one, two")),
        (FieldMatch("x-a", suffix="o", invert=True), ("", "one")),
        (FieldMatch("x-a", regex="o.*|"), ("", "one", "one, two")),
        (FieldMatch("x-a", regex="o"), ()),
        (FieldMatch("x-a", regex="o..", invert=True), ("", "two", "one, two")),
    ],
)
def test_a_field(field: FieldMatch, values: tuple[str | None, ...]) -> None:
    """By any spelling of its name; its lines are one value; missing, it is only not `present`."""
    lines: dict[str | None, list[tuple[str, str]]] = {
        None: [],
        "": [("x-a", "")],
        "one": [("X-a", "one")],
        "two": [("x-b", "one"), ("X-A", "two")],
        "one, two": [("x-a", "one"), ("x-b", "0"), ("X-A", "two")],
    }
    match = Match(headers=(field,))
    assert tuple(value for value in lines if takes(match, "/", *lines[value])) == values


def test_fields_that_the_mesh_keeps_apart_can_be_matched() -> None:
    """Host by either of its names, and the length."""
    for name, text in (("Host", "api"), (":authority", "api"), ("Content-Length", "5")):
        match = Match(headers=(FieldMatch(name, exact=text),))
        assert takes(match, "/", ("Content-Length", "5"), method="POST")


@pytest.mark.parametrize(
    ("parameter", "taken"),
    [
        (QueryMatch("a", present=True), ("a", "a=", "a=1", "b&a=1", "a=1&a=2", "a=2&a=1", "a=%31")),
        (QueryMatch("a", exact="1"), ("a=1", "b&a=1", "a=1&a=2")),
        (QueryMatch("a", regex="[0-9]?"), ("a", "a=", "a=1", "b&a=1", "a=1&a=2", "a=2&a=1")),
    ],
)
def test_a_parameter(parameter: QueryMatch, taken: tuple[str, ...]) -> None:
    """The first of its name, undecoded."""
    others = ("", "aa=1", "b=a", "%61=1", "A=1")
    queries = ("a", "a=", "a=1", "b&a=1", "a=1&a=2", "a=2&a=1", "a=%31", *others)
    match = Match(query=(parameter,))
    assert tuple(query for query in queries if takes(match, f"/?{query}")) == taken
    assert not takes(match, "/")


def test_one_of_the_methods() -> None:
    match = Match(methods=("get", "PUT"))
    assert [m for m in ("GET", "PUT", "POST", "HEAD") if takes(match, method=m)] == ["GET", "PUT"]


def test_all_criteria_hold() -> None:
    """Each missing in turn."""
    match = Match(
        path_prefix="/a",
        headers=(FieldMatch("x-a", exact="1"), FieldMatch("x-b", present=True)),
        query=(QueryMatch("q", exact="1"), QueryMatch("r", present=True)),
        methods=("GET",),
    )
    fields = (("x-a", "1"), ("x-b", "1"))
    assert takes(match, "/a?q=1&r", *fields)
    assert not takes(match, "/a?q=1&r", *fields, method="POST")
    assert not takes(match, "/b?q=1&r", *fields)
    assert not takes(match, "/a?r", *fields)
    assert not takes(match, "/a?q=1", *fields)
    assert not takes(match, "/a?q=1&r", fields[0])
    assert not takes(match, "/a?q=1&r", fields[1])


@pytest.mark.parametrize(
    "matches",
    [
        (Match(path_prefix="/"), Match(path_exact="/a/b")),
        (Match(path_exact="/a/b"), Match(path_prefix="/")),
        (Match(path_prefix="/a"), Match(path_prefix="/a/b")),
        (Match(path_regex="/a/.*"), Match(path_exact="/a/b")),
        (Match(path_exact="/a/b"), Match(path_exact="/a/b")),
        (Match(methods=("GET",)), Match(path_exact="/a/b")),
        (Match(path_regex=".*b"), Match(path_regex="/a.*")),
    ],
)
def test_the_first_that_matches_wins(matches: tuple[Match, ...]) -> None:
    """However much better another fits."""
    assert find(matches, head("GET", "/a/b")) == 0
    assert find((Match(path_exact="/c"), *matches), head("GET", "/a/b")) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(?i)/a", "/b"),
        (r"/\Q.*", "/b"),
        ("(?P<n>/a)", "(?P<n>/b)"),
        ("/a|/c", "/b$"),
        ("/(a)?", "/(b)"),
        ("[/]a", "[^a]b"),
    ],
)
def test_regexes_do_not_disturb_each_other(one: str, other: str) -> None:
    """Whether they are asked together or one by one."""
    matches = (Match(path_regex=one), Match(path_regex=other), Match(path_prefix="/"))
    for target in ("/a", "/b", "/A", "/B", "/c", "/.*", "/ab", "/a|/b"):
        alone = [takes(match, target) for match in matches]
        assert find(matches, head("GET", target)) == alone.index(True)


def test_no_route_is_said_so() -> None:
    assert find((Match(path_exact="/a"), Match(path_prefix="/b/")), head("GET", "/b")) == -1


# A loop over all routes, written from the contract, against the tables.

PATHS = ("/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/b/1", "/b/12", "/\xff", "/\xff\xff")
REGEXES = ("/a.*", "/b/[0-9]+", ".*c", "/(a|b)", "(/a|/a/b)/?.?", "(?i)/A/.", "/a{2}", "/b?/.", "")
FIELDS = (
    FieldMatch("X-A", present=True),
    FieldMatch("x-a", present=True, invert=True),
    *(
        FieldMatch("x-a", **{kind: "12"}, invert=invert)  # type: ignore[arg-type]
        for kind in ("exact", "prefix", "suffix", "regex")
        for invert in (False, True)
    ),
)
PARAMETERS = (
    QueryMatch("q", present=True),
    QueryMatch("q", exact="1"),
    QueryMatch("q", regex="1?2"),
)


def random_match(dice: random.Random) -> Match:
    kind = dice.choice(("path_exact", "path_prefix", "path_regex", ""))
    path = dice.choice(REGEXES if kind == "path_regex" else PATHS)
    few = dice.choice((0, 0, 0, 1, 2))
    return Match(
        **({kind: path} if kind else {}),  # type: ignore[arg-type]
        headers=tuple(dice.sample(FIELDS, few)),
        query=tuple(dice.sample(PARAMETERS, dice.choice((0, 0, 1)))),
        methods=dice.choice(((), (), ("GET",), ("PUT", "POST"))),
    )


def fulfils(match: Match, method: str, path: str, query: str, value: str | None) -> bool:
    def held(field: FieldMatch) -> bool:
        if value is None:
            return field.present and field.invert
        found = (
            field.present
            or (field.exact and value == field.exact)
            or (field.prefix and value[: len(field.prefix)] == field.prefix)
            or (field.suffix and value[-len(field.suffix) :] == field.suffix)
            or (field.regex and re.fullmatch(field.regex, value))
        )
        return bool(found) != field.invert

    pairs = [part.partition("=") for part in query.split("&")]
    first = next((text for name, _, text in pairs if name == "q"), None)
    return (
        (not match.path_exact or path == match.path_exact)
        and (not match.path_prefix or path[: len(match.path_prefix)] == match.path_prefix)
        and (not match.path_regex or re.fullmatch(match.path_regex, path) is not None)
        and all(held(field) for field in match.headers)
        and all(
            first is not None
            and bool(
                p.present
                or (p.exact and first == p.exact)
                or (p.regex and re.fullmatch(p.regex, first))
            )
            for p in match.query
        )
        and (not match.methods or method in match.methods)
    )


@pytest.mark.parametrize("seed", range(60))
def test_tables_find_what_a_loop_over_all_routes_does(seed: int) -> None:
    dice = random.Random(seed)
    matches = [random_match(dice) for _ in range(dice.choice((1, 4, 12, 40)))]
    matcher = Matcher(matches)
    for _ in range(80):
        method = dice.choice(("GET", "PUT", "HEAD"))
        path = dice.choice(PATHS) + dice.choice(("", "", "b", "/", "1", "c", "\xff"))
        query = dice.choice(("", "q", "q=1", "q=2&q=1", "r=1&q=12"))
        value = dice.choice((None, "", "1", "12", "012", "123"))
        request = head(method, f"{path}?{query}", *[("X-a", value)] * (value is not None))
        expected = next(
            (n for n, m in enumerate(matches) if fulfils(m, method, path, query, value)), -1
        )
        found = matcher.find(request.method, request.target, request)
        assert found == expected, (method, path, query, value, matches)


@pytest.mark.parametrize(
    ("match", "rewrite", "target", "forwarded"),
    [
        (Match(path_prefix="/a/"), "/", "/a/b/c?d=/a/", "/b/c?d=/a/"),
        (Match(path_prefix="/a"), "/x", "/ab?c", "/xb?c"),
        (Match(path_prefix="/\xe9/"), "/e/", "/\xe9/1", "/e/1"),
        (Match(path_prefix="/"), "/x/", "/", "/x/"),
        (Match(path_exact="/a/b"), "/x", "/a/b?c=1?", "/x?c=1?"),
        (Match(path_exact="/a"), "/x", "/a", "/x"),
        (Match(path_prefix="/a"), "", "/a?b", "/a?b"),
    ],
)
def test_what_is_forwarded(match: Match, rewrite: str, target: str, forwarded: str) -> None:
    """The matched part is replaced, the query stays."""
    own = Target("api", "api", "dc1", "sni", spiffe("api"))
    upstream = Upstream("api", Protocol.HTTP, own, (), (Route("r", match, None, rewrite),))
    way = UpstreamEntry(upstream, {"api": TargetEntry("api", [], 0)}, None, BUDGET).ways[0]
    assert way.rewrites is bool(rewrite)
    assert (way.forwarded(target.encode()) if way.rewrites else target.encode()) == (
        forwarded.encode()
    )


@pytest.mark.parametrize(
    ("match", "takes", "leaves"),
    [
        (Match(path_exact="/Api", ignore_case=True), ["/api", "/API?x=Y", "/Api"], ["/api/", "/a"]),
        (Match(path_prefix="/Api/", ignore_case=True), ["/api/", "/aPI/X"], ["/ap", "/", "/apix"]),
        (Match(path_regex="/V[0-9]+/a|/b", ignore_case=True), ["/v1/A", "/B"], ["/v/a", "/v1/"]),
        (Match(path_exact="/Api"), ["/Api"], ["/api"]),
        (Match(ignore_case=True), ["/", "/x"], []),
    ],
)
def test_letters_of_either_case(match: Match, takes: list[str], leaves: list[str]) -> None:
    """Alone and among others, of which it does not take what is theirs by order."""
    others = [Match(path_exact="/first"), match, Match(path_regex="/w[0-9]"), Match()]
    for targets, alone, among in ((takes, 0, 1), (leaves, -1, 3)):
        for target in targets:
            head = RequestHead()
            assert Matcher([match]).find(b"GET", target.encode(), head) == alone, target
            assert Matcher(others).find(b"GET", target.encode(), head) == among, target
    assert Matcher(others).find(b"GET", b"/first", RequestHead()) == 0
