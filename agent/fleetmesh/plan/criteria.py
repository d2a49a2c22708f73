"""Rules in words, and which of their criteria a request fulfils, asked of the data plane's own
matcher: a criterion is a match with nothing else in it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from fleetmesh.core.request import RequestHead
from fleetmesh.core.routes import Matcher
from fleetmesh.model.explanation import Criterion
from fleetmesh.model.traffic import FieldMatch, Match, QueryMatch


def judged(match: Match, head: RequestHead) -> tuple[Criterion, ...]:
    return tuple(
        Criterion(text, Matcher([one]).find(head.method, head.target, head) == 0)
        for text, one in parts(match)
    )


def words(match: Match) -> tuple[str, ...]:
    return tuple(text for text, _ in parts(match))


def parts(match: Match) -> Iterator[tuple[str, Match]]:
    """Each criterion of `match` in words and by itself; all together are `match`."""
    path = replace(match, headers=(), query=(), methods=())
    if path != Match(ignore_case=match.ignore_case):
        yield _path(match), path
    if match.methods:
        yield f"method {' or '.join(match.methods)}", Match(methods=match.methods)
    for field in match.headers:
        yield f"header {field.name} {demand(field)}", Match(headers=(field,))
    for parameter in match.query:
        yield f"query {parameter.name} {demand(parameter)}", Match(query=(parameter,))


def _path(match: Match) -> str:
    case = ", in either case" if match.ignore_case else ""
    if match.path_exact:
        return f"path is {match.path_exact}{case}"
    if match.path_regex:
        return f"path matches {match.path_regex}{case}"
    return f"path begins with {match.path_prefix}{case}"


def demand(criterion: FieldMatch | QueryMatch) -> str:
    negated = isinstance(criterion, FieldMatch) and criterion.invert
    if criterion.exact:
        text = f"is not {criterion.exact}" if negated else f"is {criterion.exact}"
    elif criterion.regex:
        text = f"{'does not match' if negated else 'matches'} {criterion.regex}"
    elif isinstance(criterion, FieldMatch) and criterion.prefix:
        text = f"{'does not begin' if negated else 'begins'} with {criterion.prefix}"
    elif isinstance(criterion, FieldMatch) and criterion.suffix:
        text = f"{'does not end' if negated else 'ends'} with {criterion.suffix}"
    else:
        text = "is absent" if negated else "is present"
    return text
