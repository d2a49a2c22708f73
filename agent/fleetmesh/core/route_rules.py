"""What an upstream or a permission must be to be served: every problem with its place, none
passes silently."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from math import inf

import re2

from fleetmesh.balance import PICKERS
from fleetmesh.core.fields import field_problems
from fleetmesh.core.framing import TOKEN
from fleetmesh.core.retry import CONDITIONS
from fleetmesh.core.routes import compile_regex
from fleetmesh.model.intention import Permission
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import (
    FieldMatch,
    HashPolicy,
    Match,
    QueryMatch,
    RateLimit,
    Retries,
    Route,
    Split,
    Target,
    Upstream,
)

_TOKEN = re.compile(TOKEN.decode())
# What may stand in a request line as a path (RFC 9112 section 3.2.1), percent-encoded or not.
_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*")

FIELD_KINDS = ("present", "exact", "prefix", "suffix", "regex")
QUERY_KINDS = ("present", "exact", "regex")
PATH_KINDS = ("path_exact", "path_prefix", "path_regex")
HASH_KINDS = ("header", "cookie", "query", "source_address")
LIMITS = ("max_connections", "max_pending_requests", "max_concurrent_requests")
MOST_RETRIES = 100
LEAST_RATE = 0.001
WHOLE = 10000  # the weights of all splits of one place, in hundredths of a percent
# What may stand in a cookie's Path (RFC 6265 section 4.1.1), without what would need quoting.
_COOKIE_PATH = re.compile(r"[\x21-\x3a\x3c-\x7e]*")


def upstream_problems(upstream: Upstream, where: str) -> list[Problem]:
    """`where` is the path of `upstream`; its routes, its splits and all its targets are judged."""
    found = problems(upstream.routes, f"{where}.routes")
    found += _splits(upstream.splits, f"{where}.splits")
    known = {target.id: target for target in upstream.targets()}
    for at, target in _places(upstream, where):
        if target != known[target.id]:
            rule = f"another target of this upstream is {target.id} too"
            found.append(Problem(f"{at}.id", rule, "Give it one of its own"))
        else:
            found += _target(target, at, known.keys())
    return found


def _places(upstream: Upstream, where: str) -> Iterator[tuple[str, Target]]:
    """Every target with its path."""
    yield f"{where}.target", upstream.target
    for number, split in enumerate(upstream.splits):
        yield f"{where}.splits[{number}].target", split.target
    for number, route in enumerate(upstream.routes):
        if route.target is not None:
            yield f"{where}.routes[{number}].target", route.target
        for at, split in enumerate(route.splits):
            yield f"{where}.routes[{number}].splits[{at}].target", split.target
    for number, target in enumerate(upstream.spares):
        yield f"{where}.spares[{number}]", target


def _splits(splits: Sequence[Split], at: str) -> Iterator[Problem]:
    for number, split in enumerate(splits):
        if not 0 <= split.weight <= WHOLE:
            yield Problem(f"{at}[{number}].weight", f"{split.weight} is not from 0 to {WHOLE}")
        for said in ("request_fields", "response_fields"):
            yield from field_problems(getattr(split, said), f"{at}[{number}].{said}")
    total = sum(split.weight for split in splits)
    if splits and total != WHOLE:
        yield Problem(at, f"the weights make {total}", f"Let them make {WHOLE}, which is 100 %")


def _target(target: Target, at: str, known: Collection[str]) -> Iterator[Problem]:
    for number, other in enumerate(target.failover):
        if other not in known:
            yield Problem(
                f"{at}.failover[{number}]", f"there is no target {other!r}", "Add it to spares"
            )
        elif other == target.id:
            yield Problem(f"{at}.failover[{number}]", "is the target itself", "Remove it")
    balancing = target.balancing
    if balancing.policy and balancing.policy not in PICKERS:
        yield Problem(
            f"{at}.balancing.policy",
            f"{balancing.policy!r} is not known here",
            f"Known are {', '.join(PICKERS)}",
        )
    for name in ("choice_count", "minimum_ring_size", "maximum_ring_size"):
        if getattr(balancing, name) < 1:
            yield Problem(f"{at}.balancing.{name}", "is less than 1")
    for number, policy in enumerate(balancing.hash_policies):
        yield from _hash_policy(policy, f"{at}.balancing.hash_policies[{number}]")
    tries = target.tries
    if tries.retries is not None and not 0 <= tries.retries <= MOST_RETRIES:
        rule = f"{tries.retries} is not from 0 to {MOST_RETRIES}"
        yield Problem(f"{at}.tries.retries", rule)
    yield from _seconds(tries.per_try_timeout, f"{at}.tries.per_try_timeout")
    yield from _seconds(tries.stream_timeout, f"{at}.tries.stream_timeout")
    for name in LIMITS:
        limit = getattr(target.limits, name)
        if limit is not None and limit < 1:
            yield Problem(f"{at}.limits.{name}", f"{limit} would let nothing through", "Raise it")
    wait = target.limits.queue_wait
    if wait is not None and not 0 <= wait < inf:
        yield Problem(f"{at}.limits.queue_wait", f"{wait} is no time in seconds")


def rate_problems(limit: RateLimit, at: str) -> list[Problem]:
    found = list(match_problems(limit.match, f"{at}.match"))
    if not LEAST_RATE <= limit.per_second < inf:
        rule = f"{limit.per_second:g} requests a second are no rate"
        found.append(Problem(f"{at}.per_second", rule, f"Give {LEAST_RATE} or more"))
    if limit.burst < 0:
        found.append(Problem(f"{at}.burst", f"{limit.burst} would let nothing through", "Raise it"))
    return found


def _hash_policy(policy: HashPolicy, at: str) -> Iterator[Problem]:
    given = [kind for kind in HASH_KINDS if getattr(policy, kind)]
    if len(given) != 1:
        rule = f"has {' and '.join(given)}" if given else "hashes nothing"
        yield Problem(at, rule, f"Give one of {', '.join(HASH_KINDS)}")
    header = policy.header
    if header and header.lower() != ":authority" and not _TOKEN.fullmatch(header):
        yield Problem(f"{at}.header", f'"{header}" is no name of a field')
    if policy.cookie and not _TOKEN.fullmatch(policy.cookie):
        yield Problem(f"{at}.cookie", f'"{policy.cookie}" is no name of a cookie')
    if not policy.cookie and (policy.cookie_ttl is not None or policy.cookie_path):
        yield Problem(at, "has a cookie's lifetime or path, but no cookie", "Name it in `cookie`")
    if policy.cookie_ttl is not None and not 0 <= policy.cookie_ttl < float("inf"):
        yield Problem(f"{at}.cookie_ttl", f"{policy.cookie_ttl:g} is no time to live")
    if not _COOKIE_PATH.fullmatch(policy.cookie_path):
        yield Problem(f"{at}.cookie_path", f"{policy.cookie_path!r} is no cookie's path")


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
        found += match_problems(route.match, f"{at}.match")
        found += _times(route, at)
        found += _retries(route.retries, f"{at}.retries")
        for said in ("request_fields", "response_fields"):
            found += field_problems(getattr(route, said), f"{at}.{said}")
        found += _rewrite(route, f"{at}.prefix_rewrite")
        found += _splits(route.splits, f"{at}.splits")
    return found


def _times(route: Route, at: str) -> Iterator[Problem]:
    for key in ("timeout", "idle_timeout"):
        yield from _seconds(getattr(route, key), f"{at}.{key}")


def _seconds(seconds: float | None, at: str) -> Iterator[Problem]:
    if seconds is not None and not 0 <= seconds < inf:
        yield Problem(at, f"{seconds} is no time in seconds")


def _retries(retries: Retries, at: str) -> Iterator[Problem]:
    if not 0 <= retries.count <= MOST_RETRIES:
        yield Problem(f"{at}.count", f"{retries.count} is not from 0 to {MOST_RETRIES}")
    yield from _seconds(retries.per_try_timeout, f"{at}.per_try_timeout")
    for number, condition in enumerate(retries.on):
        if condition not in CONDITIONS:
            remedy = f"Give one of {', '.join(sorted(CONDITIONS))}"
            yield Problem(f"{at}.on[{number}]", f'"{condition}" is no condition', remedy)
    for number, status in enumerate(retries.statuses):
        if not 200 <= status <= 599:
            yield Problem(f"{at}.statuses[{number}]", f"{status} is no answer's status code")


def permission_problems(permission: Permission, at: str) -> list[Problem]:
    """An intention's permission asks as a route does."""
    match = Match(
        path_exact=permission.path_exact,
        path_prefix=permission.path_prefix,
        path_regex=permission.path_regex,
        headers=permission.headers,
        methods=permission.methods,
    )
    return list(match_problems(match, at))


def match_problems(match: Match, at: str) -> Iterator[Problem]:
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
