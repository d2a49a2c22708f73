"""Instances become endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.answers import instance

from fleetmesh.model.traffic import Health
from fleetmesh.plan.endpoints import MAX_WEIGHT, endpoints


def weighted(passing: int, warning: int, *checks: str) -> Any:
    return instance(checks=checks, Weights={"Passing": passing, "Warning": warning})


@pytest.mark.parametrize(
    ("checks", "health", "weight"),
    [
        (("passing",), Health.PASSING, 5),
        (("passing", "warning"), Health.WARNING, 2),
        (("passing", "critical"), Health.CRITICAL, 5),
        (("maintenance",), Health.CRITICAL, 5),
    ],
)
def test_the_worst_check_decides_on_health_and_weight(
    checks: tuple[str, ...], health: Health, weight: int
) -> None:
    (one, _) = endpoints(
        (weighted(5, 2, *checks), instance(number=9)), only_passing=False, wide=False
    )
    assert (one.health, one.weight) == (health, weight)


def test_a_weight_below_one_is_no_traffic_and_a_great_one_is_clamped() -> None:
    healthy = instance(number=9)
    (none, _) = endpoints((weighted(0, 1, "passing"), healthy), only_passing=False, wide=False)
    assert none.health is Health.CRITICAL
    (great, _) = endpoints((weighted(60000, 1), healthy), only_passing=False, wide=False)
    assert great.weight == MAX_WEIGHT


def test_only_passing_leaves_those_with_a_warning_out() -> None:
    found = endpoints(
        (weighted(1, 1, "warning"), instance(number=9)), only_passing=True, wide=False
    )
    assert [one.health for one in found] == [Health.CRITICAL, Health.PASSING]


def test_they_are_sorted_by_id() -> None:
    found = endpoints((instance(number=3), instance(number=1)), only_passing=False, wide=False)
    assert [one.id for one in found] == sorted(one.id for one in found)
