"""Rates of service-defaults: Consul's own fields, and Meta's."""

from __future__ import annotations

from typing import Any

import pytest

from fleetmesh.model.traffic import Match, RateLimit
from fleetmesh.plan.meta import Meta, read
from fleetmesh.plan.rates import rate_limits

ROUTES = [
    {"PathExact": "/export", "RequestsPerSecond": 1, "RequestsMaxBurst": 5},
    {"PathPrefix": "/search", "RequestsPerSecond": 10},
    {"PathRegex": "/[0-9]+", "RequestsPerSecond": 20},
]


def test_what_consul_has_fields_for() -> None:
    """Its first match counts, and the instance's own rate where no route matches."""
    level = {"RequestsPerSecond": 100, "RequestsMaxBurst": 200, "Routes": ROUTES}
    assert rate_limits({"InstanceLevel": level}, Meta(rate_limit=7.0), "here") == (
        (
            RateLimit("/export", 1.0, 5, Match(path_exact="/export")),
            RateLimit("/search", 10.0, 0, Match(path_prefix="/search")),
            RateLimit("/[0-9]+", 20.0, 0, Match(path_regex="/[0-9]+")),
            RateLimit("instance", 100.0, 200),
        ),
        (),
    )


def test_what_meta_says() -> None:
    meta, problems = read(
        {
            "fleetmesh-rate-limit": "50",
            "fleetmesh-rate-limit-burst": "80",
            "fleetmesh-rate-limit-paths": "/search*=10, /export=0.5:3",
            "fleetmesh-caller-rate-limit": "5.5",
        },
        "here",
    )
    assert not problems
    assert rate_limits(None, meta, "here") == (
        (
            RateLimit("/search*", 10.0, 0, Match(path_prefix="/search")),
            RateLimit("/export", 0.5, 3, Match(path_exact="/export")),
            RateLimit("instance", 50.0, 80),
            RateLimit("caller", 5.5, 0, per_caller=True),
        ),
        (),
    )


@pytest.mark.parametrize(
    ("level", "path"),
    [
        ({"Routes": [{"PathExact": "/a"}]}, "Routes[0].per_second"),
        ({"Routes": [{"PathRegex": "(", "RequestsPerSecond": 1}]}, "Routes[0].match.path_regex"),
        ({"Routes": ["/a"]}, "Routes[0]"),
        (
            {"Routes": [{"PathExact": "/a", "PathPrefix": "/b", "RequestsPerSecond": 1}]},
            "Routes[0].match",
        ),
        ({"RequestsPerSecond": 5, "RequestsMaxBurst": -1}, "burst"),
    ],
)
def test_a_limit_that_is_wrong_is_named_and_left_out(level: dict[str, Any], path: str) -> None:
    limits, (problem,) = rate_limits({"InstanceLevel": level}, Meta(), "service-defaults/api")
    assert not limits
    assert problem.path.startswith("service-defaults/api: RateLimits.InstanceLevel")
    assert problem.path.endswith(path)


@pytest.mark.parametrize("text", ["search=1", "/a=0", "/a", "/a*b=1", "/a=1:", "", "/a=1;/b=2"])
def test_paths_that_are_wrong(text: str) -> None:
    meta, (problem,) = read({"fleetmesh-rate-limit-paths": text}, "here")
    assert meta == Meta()
    assert "is no PATH=RATE" in problem.rule


def test_a_burst_alone_says_nothing() -> None:
    meta = Meta(rate_limit_burst=5, caller_rate_limit_burst=5)
    limits, problems = rate_limits(None, meta, "here")
    assert not limits
    assert [problem.remedy for problem in problems] == [
        "Give fleetmesh-rate-limit too",
        "Give fleetmesh-caller-rate-limit too",
    ]
