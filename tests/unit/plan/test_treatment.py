"""What is said of a request's tries, and by whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import snapshot, upstream

from fleetmesh.cli import explain_text
from fleetmesh.core.entry import UpstreamEntry
from fleetmesh.core.table import link
from fleetmesh.model.explanation import LegState, TargetState
from fleetmesh.model.traffic import Match, Retries, Route, Tries, Upstream
from fleetmesh.plan.treatment import Treatment, treatment
from fleetmesh.settings import UpstreamSettings


def entry(
    say: Callable[[Upstream], Upstream] = lambda api: api,
    *ports: int,
    keeping: UpstreamSettings | None = None,
) -> UpstreamEntry:
    api = say(upstream("api", *(ports or (1, 2))))
    what = snapshot(Authority(), (), (api,))
    return link(what, 1, None, 0, keeping or UpstreamSettings()).upstreams["api"]


def treated(of: UpstreamEntry, number: int = -1) -> Treatment:
    routes = of.upstream.routes
    return treatment(of.ways[number], routes[number] if number >= 0 else None)


def tries(said: Tries) -> Callable[[Upstream], Upstream]:
    return lambda api: replace(api, target=replace(api.target, tries=said))


def test_the_host_s_own_where_nobody_says_anything() -> None:
    found = treated(entry(keeping=UpstreamSettings(retries=4, stream_timeout=9.0)))
    assert (found.retries, found.retries_by) == (4, "settings: upstream.retries")
    assert found.retried[0] == "a connect that failed"
    assert (found.stream_timeout, found.stream_timeout_by) == (
        9.0,
        "settings: upstream.stream_timeout",
    )
    assert (found.try_timeout, found.hedge) == (0.0, False)


def test_the_service_goes_before_it() -> None:
    said = Tries(1, 0.5, hedge=True, stream_timeout=0.0)
    found = treated(entry(tries(said), keeping=UpstreamSettings(stream_timeout=9.0)))
    assert (found.retries, found.retries_by) == (
        1,
        "service-defaults: Meta[fleetmesh-retries]",
    )
    assert (found.try_timeout, found.stream_timeout, found.hedge) == (0.5, 0.0, True)
    assert found.try_timeout_by == "service-defaults: Meta[fleetmesh-per-try-timeout]"
    assert found.stream_timeout_by == "service-defaults: Meta[fleetmesh-stream-timeout]"
    assert found.hedge_by == "service-defaults: Meta[fleetmesh-hedge]"


def test_a_route_goes_before_both() -> None:
    own = Route("own", retries=Retries(5, ("5xx",), per_try_timeout=0.25), hedge=False)
    silent = Route("silent", Match(path_prefix="/silent"))

    def say(api: Upstream) -> Upstream:
        return replace(tries(Tries(1, 0.5, hedge=True))(api), routes=(silent, own))

    of = entry(say)
    found = treated(of, 1)
    assert (found.retries, found.retries_by) == (5, "route")
    assert (found.try_timeout, found.try_timeout_by) == (0.25, "route")
    assert (found.hedge, found.hedge_by) == (False, "route")
    assert "status 500-599" in found.retried
    other = treated(of, 0)
    assert (other.retries, other.try_timeout, other.hedge) == (1, 0.5, True)


@pytest.mark.parametrize("ports", [(1,), (1, 2)])
def test_none_by_default_without_another_endpoint(ports: tuple[int, ...]) -> None:
    assert (treated(entry(lambda api: api, *ports)).retries > 0) == (len(ports) > 1)


def test_in_words() -> None:
    leg = LegState(
        10000,
        TargetState("api", "api", "", "dc1", (), "api", (), "", "", 5.0, "peak_ewma"),
        timeout=2.0,
        timeout_by="route",
        try_timeout=0.5,
        try_timeout_by="route",
        stream_timeout=60.0,
        stream_timeout_by="settings: upstream.stream_timeout",
        hedge=True,
        hedge_by="route",
    )
    said = list(explain_text._leg(leg, divided=False, http=True))
    assert [line.split(None, 1)[1].strip() for line in said[-3:]] == [
        "try   0.5 s (route)",
        "most    60 s (settings: upstream.stream_timeout)",
        "after the p95 (route)",
    ]
