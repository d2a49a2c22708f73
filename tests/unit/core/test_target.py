"""Picking an endpoint where some must not be had at the moment."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.outlier import Outliers, Standing
from fleetmesh.core.table import Table, link
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Balancing, Endpoint, Health, PassiveHealth
from fleetmesh.settings import OutlierSettings, UpstreamSettings

AUTHORITY = Authority()
POLICIES = ("peak_ewma", "least_request", "random", "round_robin", "ring_hash", "maglev")
HASHING = ("ring_hash", "maglev")


def state(policy: str, count: int, *critical: int, said: PassiveHealth | None = None) -> Snapshot:
    api = upstream("api", *range(1, count + 1))
    endpoints: list[Endpoint] = [
        replace(one, health=Health.CRITICAL if one.port in critical else Health.PASSING)
        for one in api.target.endpoints
    ]
    target = replace(
        api.target,
        balancing=Balancing(policy),
        endpoints=tuple(endpoints),
        passive_health=said or PassiveHealth(),
    )
    return snapshot(AUTHORITY, (local_service("web", 1, None),), (replace(api, target=target),))


def table(policy: str, count: int = 4) -> Table:
    outlier = OutlierSettings(max_ejection_percent=100)
    return link(state(policy, count), 1, None, 0, UpstreamSettings(outlier=outlier))


def own(found: Table) -> TargetEntry:
    return found.upstreams["api"].default.target


def standing(target: TargetEntry, port: int) -> Standing:
    found = target.places[port - 1].standing
    assert found is not None
    return found


def eject(target: TargetEntry, *ports: int) -> None:
    for port in ports:
        for _ in range(5):
            standing(target, port).answered(500, 0.001, 100.0)


def picks(target: TargetEntry, now: float, times: int = 3000, tried: str = "") -> list[int]:
    random = Random(5)
    tries = [tried] if tried else []
    found = []
    for _ in range(times):
        place = target.pick(tries, random.getrandbits(64), now)
        assert place is not None
        found.append(place.endpoint.port)
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_the_share_of_an_ejected_one_goes_to_all_others(policy: str) -> None:
    target = own(table(policy))
    eject(target, 2)
    counts = Counter(picks(target, 101.0))
    assert set(counts) == {1, 3, 4}
    assert min(counts.values()) > 0.7 * 1000


@pytest.mark.parametrize("policy", HASHING)
def test_the_requests_of_no_other_move(policy: str) -> None:
    target = own(table(policy))
    before = picks(target, 101.0)
    eject(target, 2)
    after = picks(target, 101.0)
    assert all(old in (2, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_where_all_are_ejected_all_serve(policy: str) -> None:
    target = own(table(policy))
    eject(target, 1, 2, 3, 4)
    counts = Counter(picks(target, 101.0))
    assert min(counts[port] for port in (1, 2, 3, 4)) > 300


@pytest.mark.parametrize("policy", POLICIES)
def test_one_request_is_let_through_when_the_time_is_over(policy: str) -> None:
    target = own(table(policy))
    eject(target, 2)
    assert picks(target, 108.0).count(2) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_another_attempt_goes_to_one_that_is_neither_tried_nor_ejected(policy: str) -> None:
    target = own(table(policy))
    eject(target, 2)
    counts = Counter(picks(target, 101.0, tried="node0/api"))
    assert set(counts) == {3, 4}
    eject(target, 3, 4)
    assert 1 not in picks(target, 101.0, tried="node0/api")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_new_one_among_others_begins_with_a_tenth(policy: str) -> None:
    one = link(state(policy, 4), 1, None, 0)
    target = own(link(state(policy, 5), 2, one, 0, now=200.0))
    assert 0 < picks(target, 200.0, 6000).count(5) < 0.25 * 1200
    assert 0.3 * 1200 < picks(target, 205.0, 6000).count(5) < 0.85 * 1200
    for outliers in one.outliers.values():
        outliers.tick(211.0)
    assert 0.8 * 1200 < picks(target, 211.0, 6000).count(5) < 1.2 * 1200


def test_what_is_known_of_endpoints_outlives_a_snapshot() -> None:
    one = link(state("", 4), 1, None, 0)
    eject(own(one), 2)
    two = link(state("", 4, said=PassiveHealth(max_failures=2)), 2, one, 0, now=101.0)
    assert set(picks(own(two), 101.0)) == {1, 3, 4}
    assert standing(own(two), 1) is standing(own(one), 1)
    assert two.ejections == {("api", "5xx"): 1}
    for _ in range(2):
        standing(own(two), 1).answered(500, 0.001, 101.0)
    assert standing(own(two), 1).out
    # Consul calls it critical, and then passing again: it is as good as new.
    three = link(state("", 4, 2), 3, two, 0, now=102.0)
    four = link(state("", 4), 4, three, 0, now=103.0)
    assert not standing(own(four), 2).out
    assert 0 < picks(own(four), 103.0).count(2) < 300


def test_one_endpoint_alone_is_not_watched() -> None:
    """Nor one that is left alone, ejected or not; and it is told of again when others come."""
    found = link(state("", 1), 1, None, 0)
    place = own(found).places[0]
    assert (place.standing, own(found).outliers, own(found).draws) == (None, None, False)
    four = link(state("", 4), 2, found, 0)
    assert place.lane("web", False).standing is place.standing is not None
    eject(own(four), 1)
    alone = link(state("", 1), 3, four, 0)
    assert own(alone).pick() is place
    assert place.lane("web", False).standing is None


def test_upstreams_that_share_a_target_share_what_is_known() -> None:
    api = upstream("api", 1, 2)
    both = (api, replace(upstream("shop", 3), target=api.target))
    found = link(snapshot(AUTHORITY, (), both), 1, None, 0)
    one, other = own(found), found.upstreams["shop"].default.target
    assert isinstance(one.outliers, Outliers)
    assert one.outliers is other.outliers
    assert len(one.outliers.standings) == 2
