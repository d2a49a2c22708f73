"""The rates that a local service takes: of `RateLimits` of its service-defaults, or of its Meta.

Consul has `RateLimits.InstanceLevel` since 1.17, where its licence allows it; Meta is for all
others, and for what is said of each caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fleetmesh.core.route_rules import rate_problems
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import Match, RateLimit
from fleetmesh.settings.kinds import Kind, Wrong, shown

if TYPE_CHECKING:
    from fleetmesh.plan.meta import Meta

INSTANCE: Final = "instance"
CALLER: Final = "caller"
_PATHS: Final = ("PathExact", "PathPrefix", "PathRegex")
_BY_PATH: Final = re.compile(r"(/[^\s*?#=]*)(\*?)=([0-9]{1,7}(?:\.[0-9]{1,9})?)(?::([0-9]{1,7}))?")
_REMEDY: Final = "Write /search*=10, /export=0.5:3"


def _by_path(value: object) -> object:
    limits: list[RateLimit] = []
    for part in str(value).split(","):
        found = _BY_PATH.fullmatch(part.strip())
        if found is None or float(found[3]) <= 0:
            return Wrong(f"{shown(part.strip())} is no PATH=RATE", _REMEDY)
        path, begins, rate, burst = found.groups()
        match = Match(path_prefix=path) if begins else Match(path_exact=path)
        limits.append(RateLimit(path + begins, float(rate), int(burst or 0), match))
    return tuple(limits)


BY_PATH: Final = Kind(
    "PATH=RATE or PATH=RATE:BURST, commas between several; a PATH that ends with * is a prefix",
    _by_path,
)


def rate_limits(
    said: Mapping[str, Any] | None, meta: Meta, where: str
) -> tuple[tuple[RateLimit, ...], tuple[Problem, ...]]:
    """What `RateLimits` say goes before what Meta says of the instance. A limit with a problem is
    left out."""
    level = (said or {}).get("InstanceLevel")
    limits: list[RateLimit] = []
    problems: list[Problem] = []
    if isinstance(level, Mapping) and level:
        limits, problems = _instance_level(level, f"{where}: RateLimits.InstanceLevel")
    else:
        limits += meta.rate_limit_paths or ()
        if meta.rate_limit is not None:
            limits.append(RateLimit(INSTANCE, meta.rate_limit, meta.rate_limit_burst or 0))
        elif meta.rate_limit_burst is not None:
            problems.append(_alone(where, "rate-limit-burst", "rate-limit"))
    if meta.caller_rate_limit is not None:
        burst = meta.caller_rate_limit_burst or 0
        limits.append(RateLimit(CALLER, meta.caller_rate_limit, burst, per_caller=True))
    elif meta.caller_rate_limit_burst is not None:
        problems.append(_alone(where, "caller-rate-limit-burst", "caller-rate-limit"))
    return tuple(limits), tuple(problems)


def _alone(where: str, burst: str, rate: str) -> Problem:
    return Problem(
        f"{where}: Meta[fleetmesh-{burst}]", "says nothing alone", f"Give fleetmesh-{rate} too"
    )


def _instance_level(level: Mapping[str, Any], where: str) -> tuple[list[RateLimit], list[Problem]]:
    """Of the routes the first that matches counts, and what is said of all paths is for the
    others."""
    limits: list[RateLimit] = []
    problems: list[Problem] = []
    routes = level.get("Routes") or []
    for number, route in enumerate(routes if isinstance(routes, list) else []):
        at = f"{where}.Routes[{number}]"
        if not isinstance(route, Mapping):
            problems.append(Problem(at, "is not understood, and not applied"))
            continue
        exact, prefix, regex = (str(route.get(key) or "") for key in _PATHS)
        match = Match(path_exact=exact, path_prefix=prefix, path_regex=regex)
        name = exact or prefix or regex or f"route {number}"
        _add(_limit(route, name, match), at, limits, problems)
    if level.get("RequestsPerSecond"):
        _add(_limit(level, INSTANCE, Match()), where, limits, problems)
    return limits, problems


def _add(limit: RateLimit, at: str, limits: list[RateLimit], problems: list[Problem]) -> None:
    found = rate_problems(limit, at)
    problems += found
    if not found:
        limits.append(limit)


def _limit(said: Mapping[str, Any], name: str, match: Match) -> RateLimit:
    burst = int(_number(said.get("RequestsMaxBurst")))
    return RateLimit(name, _number(said.get("RequestsPerSecond")), burst, match)


def _number(value: Any) -> float:
    given = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if given else 0.0
