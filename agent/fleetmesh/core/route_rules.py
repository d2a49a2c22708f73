"""What a route must be to be served: every problem with its place, so that none passes silently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import inf

import re2

from fleetmesh.core.framing import TOKEN
from fleetmesh.core.retry import CONDITIONS
from fleetmesh.core.routes import compile_regex
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import FieldMatch, Match, QueryMatch, Route

_TOKEN = re.compile(TOKEN.decode())
# What may stand in a request line as a path (RFC 9112 section 3.2.1), percent-encoded or not.
_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*")

FIELD_KINDS = ("present", "exact", "prefix", "suffix", "regex")
QUERY_KINDS = ("present", "exact", "regex")
PATH_KINDS = ("path_exact", "path_prefix", "path_regex")


def problems(routes: Sequence[Route], where: str) -> list[Problem]:
    """`where` is the path of `routes`; a problem's goes on from there: `[2].match.path_regex`."""
    found: list[Problem] = []
    names: set[str] = set()
    for number, route in enumerate(routes):
        at = f"{where}[{number}]"
        if not route.name:
            found.append(Problem(f"{at}.name", "is empty"))
        elif route.name in names:
            found.append(Problem(f"{at}.name", f"{route.name} is the name of a route above"))
        names.add(route.name)
        found += _match(route.match, f"{at}.match")
        for key in ("timeout", "idle_timeout"):
            seconds = getattr(route, key)
            if seconds is not None and not 0 <= seconds < inf:
                found.append(Problem(f"{at}.{key}", f"{seconds} is no time in seconds"))
        for number, condition in enumerate(route.retries.on):
            if condition not in CONDITIONS:
                place = f"{at}.retries.on[{number}]"
                remedy = f"Give one of {', '.join(sorted(CONDITIONS))}"
                found.append(Problem(place, f'"{condition}" is no condition', remedy))
        found += _rewrite(route, f"{at}.prefix_rewrite")
    return found


def _match(match: Match, at: str) -> Iterator[Problem]:
    paths = [kind for kind in PATH_KINDS if getattr(match, kind)]
    if len(paths) > 1:
        yield Problem(at, f"has {' and '.join(paths)}", "Keep one of them")
    for kind in ("path_exact", "path_prefix"):
        path = getattr(match, kind)
        if path and not path.startswith("/"):
            yield Problem(f"{at}.{kind}", f'"{path}" does not begin with /', "Begin it so")
        elif "?" in path or "#" in path:
            yield Problem(f"{at}.{kind}", "paths are matched without the query", "Match `query`")
    yield from _regex(match.path_regex, f"{at}.path_regex")
    for number, field in enumerate(match.headers):
        place = f"{at}.headers[{number}]"
        yield from _criterion(field, FIELD_KINDS, place)
        if field.name.lower() != ":authority" and not _TOKEN.fullmatch(field.name):
            yield Problem(f"{place}.name", f'"{field.name}" is no name of a field')
    for number, parameter in enumerate(match.query):
        place = f"{at}.query[{number}]"
        yield from _criterion(parameter, QUERY_KINDS, place)
        if not parameter.name:
            yield Problem(f"{place}.name", "is empty")
    for number, method in enumerate(match.methods):
        if not _TOKEN.fullmatch(method):
            yield Problem(f"{at}.methods[{number}]", f'"{method}" is no method')


def _criterion(
    criterion: FieldMatch | QueryMatch, kinds: tuple[str, ...], at: str
) -> Iterator[Problem]:
    given = [kind for kind in kinds if getattr(criterion, kind)]
    if len(given) != 1:
        rule = f"has {' and '.join(given)}" if given else "matches nothing"
        yield Problem(at, rule, f"Give one of {', '.join(kinds)}")
    yield from _regex(criterion.regex, f"{at}.regex")


def _regex(pattern: str, at: str) -> Iterator[Problem]:
    if not pattern:
        return
    try:
        compile_regex(pattern)
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        yield Problem(at, f"is no regex of RE2: {text}")


def _rewrite(route: Route, at: str) -> Iterator[Problem]:
    rewrite = route.prefix_rewrite
    if not rewrite:
        return
    if not (route.match.path_exact or route.match.path_prefix):
        yield Problem(at, "needs a match by path_exact or path_prefix")
    if not _PATH.fullmatch(rewrite):
        yield Problem(at, f"{rewrite!r} is no path", "Begin it with /; escape what is no URL's")
