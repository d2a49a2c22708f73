"""A compiled discovery chain's routers and splitters → routes and splits over its targets.

A rule that cannot be honoured keeps its place and takes every request that it might be for, to a
target without endpoints: what a later rule would make of them nobody has asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from fleetmesh.core import route_rules
from fleetmesh.core.fields import field_problems
from fleetmesh.core.retry import CONDITIONS
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import (
    FieldChanges,
    FieldMatch,
    Match,
    QueryMatch,
    Retries,
    Route,
    Split,
    Target,
)
from fleetmesh.plan import chain_answer as consul
from fleetmesh.plan.answers import seconds
from fleetmesh.plan.chain_answer import Chain

DEFAULT_REQUEST_TIMEOUT = 15.0
"""Seconds, of Consul's users; only compared with."""


class Course(msgspec.Struct, frozen=True):
    """Where requests go that one rule has taken: `splits`, if there are any, else `target`, which
    with splits is the one with the most weight. `timeout` is its resolvers' own."""

    target: Target
    splits: tuple[Split, ...] = ()
    timeout: float | None = None
    problems: tuple[Problem, ...] = ()


class Routing(msgspec.Struct, frozen=True):
    """The routes of a chain in order, and the course of what none of them takes."""

    default: Course
    routes: tuple[Route, ...] = ()
    problems: tuple[Problem, ...] = ()


def routing(chain: Chain, targets: Mapping[str, Target], closed: Target) -> Routing:
    """`targets` are those of `chain.resolutions` by id; `closed` has no endpoints."""
    start = chain.nodes.get(chain.start)
    if start is None or start.type != "router":
        course = _course(chain, chain.start, targets, closed)
        return Routing(course, problems=course.problems)
    rules = list(start.routes or ())
    default = Course(closed)
    problems: list[Problem] = []
    if rules and _takes_all(rules[-1]):
        default = _course(chain, rules.pop().next_node, targets, closed)
        problems += default.problems
    routes: list[Route] = []
    for number, rule in enumerate(rules):
        course = _course(chain, rule.next_node, targets, closed)
        route, found = _route(chain.service, number, rule, course, closed)
        routes.append(route)
        problems += found
    return Routing(default, tuple(routes), tuple(problems))


def _takes_all(rule: consul.ChainRoute) -> bool:
    """Whether this is the rule that Consul ends every router with: all requests, unchanged."""
    definition = rule.definition
    plain = definition.destination is None or _demands(definition.destination) == _demands(
        consul.Destination()
    )
    match, problems = _match(definition.match)
    return plain and match == Match() and not problems


def _demands(destination: consul.Destination) -> Route:
    """What a destination asks for beside the place."""
    changes = _changes(destination.request_headers), _changes(destination.response_headers)
    return Route(
        name="",
        prefix_rewrite=destination.prefix_rewrite,
        timeout=_timeout(destination.request_timeout),
        idle_timeout=_timeout(destination.idle_timeout),
        retries=_retries(destination),
        request_fields=changes[0],
        response_fields=changes[1],
    )


def _route(
    service: str, number: int, rule: consul.ChainRoute, course: Course, closed: Target
) -> tuple[Route, list[Problem]]:
    where = f"service-router/{service}: Routes[{number}]"
    match, faults = _match(rule.definition.match)
    destination = rule.definition.destination or consul.Destination()
    wanted = _demands(destination)
    if wanted.prefix_rewrite and not (match.path_exact or match.path_prefix or match.path_regex):
        match = replace(match, path_prefix="/")
    route = replace(
        wanted,
        name=f"{service}/{number}",
        match=match,
        target=course.target,
        splits=course.splits,
        timeout=course.timeout if wanted.timeout is None else wanted.timeout,
    )
    for problem in route_rules.problems([route], ""):
        faults.append(replace(problem, path=_consuls(problem.path.removeprefix("[0]"))))
    if not faults:
        return route, [*course.problems, *_unheeded(destination, f"{where}.Destination")]
    problems = [
        replace(
            fault,
            path=where + fault.path,
            rule=f"{fault.rule}: requests that it may be for are answered 503",
        )
        for fault in faults
    ]
    refusing = Route(name=route.name, match=_without_faults(match), target=closed)
    return refusing, [*course.problems, *problems]


_SPELLINGS = {
    ".match.path_exact": ".Match.HTTP.PathExact",
    ".match.path_prefix": ".Match.HTTP.PathPrefix",
    ".match.path_regex": ".Match.HTTP.PathRegex",
    ".match.headers": ".Match.HTTP.Header",
    ".match.query": ".Match.HTTP.QueryParam",
    ".match.methods": ".Match.HTTP.Methods",
    ".prefix_rewrite": ".Destination.PrefixRewrite",
    ".timeout": ".Destination.RequestTimeout",
    ".idle_timeout": ".Destination.IdleTimeout",
    ".retries.count": ".Destination.NumRetries",
    ".retries.statuses": ".Destination.RetryOnStatusCodes",
    ".request_fields": ".Destination.RequestHeaders",
    ".response_fields": ".Destination.ResponseHeaders",
}


def _consuls(path: str) -> str:
    """The path of a route's problem in the words of its entry."""
    for ours, theirs in _SPELLINGS.items():
        if path.startswith(ours):
            return theirs + path.removeprefix(ours)
    return path


def _match(given: consul.RouteMatch | None) -> tuple[Match, list[Problem]]:
    """A match without a prefix is for all paths, as one by the prefix `/` is."""
    http = (given and given.http) or consul.HttpMatch()
    faults = []
    for number, header in enumerate(http.header or ()):
        if (header.contains or header.ignore_case) and (header.present or header.regex):
            faults.append(
                Problem(f".Match.HTTP.Header[{number}]", "has kinds of match that exclude another")
            )
    return (
        Match(
            path_exact=http.path_exact,
            path_prefix="" if http.path_prefix == "/" else http.path_prefix,
            path_regex=http.path_regex,
            ignore_case=http.case_insensitive,
            headers=tuple(_field(header) for header in http.header or ()),
            query=tuple(
                QueryMatch(given.name, given.present, given.exact, given.regex)
                for given in http.query_param or ()
            ),
            methods=tuple(method.upper() for method in http.methods or ()),
        ),
        faults,
    )


def _field(header: consul.HeaderMatch) -> FieldMatch:
    """What our criteria do not know is said as a regex."""
    exact, prefix, suffix, regex = header.exact, header.prefix, header.suffix, header.regex
    if header.contains or (header.ignore_case and (exact or prefix or suffix)):
        before = ".*" if suffix or header.contains else ""
        after = ".*" if prefix or header.contains else ""
        text = re.escape(exact or prefix or suffix or header.contains)
        flags = "(?si)" if header.ignore_case else "(?s)"
        regex, exact, prefix, suffix = f"{flags}{before}{text}{after}", "", "", ""
    return FieldMatch(
        header.name, header.present, exact, prefix, suffix, regex, invert=header.invert
    )


def _without_faults(match: Match) -> Match:
    """The widest match that `match` may have been: criteria with problems are left out."""
    paths = Match(match.path_exact, match.path_prefix, match.path_regex, match.ignore_case)
    if not _sound(paths):
        paths = Match()
    return replace(
        paths,
        headers=tuple(one for one in match.headers if _sound(Match(headers=(one,)))),
        query=tuple(one for one in match.query if _sound(Match(query=(one,)))),
        methods=tuple(one for one in match.methods if _sound(Match(methods=(one,)))),
    )


def _sound(match: Match) -> bool:
    return not route_rules.problems([Route(name="one", match=match)], "")


def _course(chain: Chain, key: str, targets: Mapping[str, Target], closed: Target) -> Course:
    """Where the node leads; what it does not lead to is closed, and told."""
    node = chain.nodes.get(key)
    if node is not None and node.resolver is not None:
        target = targets.get(node.resolver.target)
        if target is not None:
            return Course(target, timeout=_timeout(node.resolver.request_timeout))
        return _refusal(chain, closed, f"leads to {node.resolver.target}, which cannot be served")
    if node is None or node.type != "splitter" or not node.splits:
        return _refusal(chain, closed, f"leads to {key}, which is not there or not known")
    where = f"service-splitter/{chain.service}: Splits"
    splits: list[Split] = []
    timeouts: list[float | None] = []
    problems: list[Problem] = []
    weights = _hundredths(node.splits)
    for number, given in enumerate(node.splits):
        below = _course(chain, given.next_node, targets, closed)
        problems += below.problems
        timeouts.append(below.timeout)
        share, faults = _split(given, weights[number], below.target, closed, f"{where}[{number}]")
        if below.splits:
            faults.append(Problem(f"{where}[{number}]", "is split again: answered 503"))
            share = replace(share, target=closed)
        splits.append(share)
        problems += faults
    return Course(
        max(splits, key=lambda split: split.weight).target,
        tuple(splits),
        _longest(timeouts),
        tuple(problems),
    )


def _hundredths(splits: Sequence[consul.ChainSplit]) -> list[int]:
    """The weights. Consul multiplies those of nested splitters and tells parts of a hundredth:
    what rounding adds to them all or takes from them, the greatest bears."""
    weights = [round(given.weight * 100) for given in splits]
    error = route_rules.WHOLE - sum(weights)
    if abs(error) <= len(weights):
        weights[weights.index(max(weights))] += error
    return weights


def _split(
    given: consul.ChainSplit, weight: int, target: Target, closed: Target, where: str
) -> tuple[Split, list[Problem]]:
    """One without weight stays, so that its endpoints are known when it gets some."""
    definition = given.definition or consul.SplitDefinition()
    request = _changes(definition.request_headers)
    response = _changes(definition.response_headers)
    faults = [
        *field_problems(request, ".RequestHeaders"),
        *field_problems(response, ".ResponseHeaders"),
    ]
    if not faults:
        return Split(weight, target, request, response), []
    return Split(weight, closed), [
        replace(fault, path=where + fault.path, rule=f"{fault.rule}: its share is answered 503")
        for fault in faults
    ]


def _refusal(chain: Chain, closed: Target, rule: str) -> Course:
    where = f"discovery-chain/{chain.service}"
    return Course(closed, problems=(Problem(where, f"{rule}: answered 503"),))


def _longest(timeouts: Iterable[float | None]) -> float | None:
    """Of several resolvers' the longest, so that none's requests are cut early; 0.0 is for ever."""
    found = set(timeouts)
    if len(found) == 1:
        return found.pop()
    if 0.0 in found:
        return 0.0
    return max(DEFAULT_REQUEST_TIMEOUT if one is None else one for one in found)


def _timeout(duration: consul.Duration) -> float | None:
    """None where nothing is said; a negative one turns it off."""
    value = seconds(duration)
    return None if value == 0 else max(value, 0.0)


def _retries(destination: consul.Destination) -> Retries:
    """Once where anything is said of retries but the number, as with Envoy."""
    on = [condition for condition in destination.retry_on or () if condition in CONDITIONS]
    if destination.retry_on_connect_failure and "connect-failure" not in on:
        on.insert(0, "connect-failure")
    statuses = tuple(destination.retry_on_status_codes or ())
    count = destination.num_retries or (1 if on or statuses else 0)
    return Retries(max(count, 0), tuple(on), statuses)


def _unheeded(destination: consul.Destination, where: str) -> list[Problem]:
    """Those that speak of gRPC or of Envoy itself; requests go on without them."""
    return [
        Problem(f"{where}.RetryOn", f'"{condition}" is no reason to try again here: ignored')
        for condition in destination.retry_on or ()
        if condition not in CONDITIONS
    ]


def _changes(given: consul.Modifiers | None) -> FieldChanges:
    if given is None:
        return FieldChanges()
    return FieldChanges(
        add=tuple(sorted((given.add or {}).items())),
        set=tuple(sorted((given.set or {}).items())),
        remove=tuple(given.remove or ()),
    )
