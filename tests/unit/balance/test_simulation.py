"""Balancer and ejection in simulated time: `tests.bench.simulation` plots the large form."""

from __future__ import annotations

from functools import cache

import pytest
from tests.bench.simulation import (
    BROKEN,
    DEAD,
    END,
    FAILING,
    FAULTS,
    SLOWED,
    WELL,
    Run,
    everywhere,
    plotted,
    run,
)


@cache
def fleet(policy: str = "peak_ewma") -> Run:
    return run(policy, 100, 20, everywhere(100), seed=6)


def test_the_load_is_spread_over_all() -> None:
    """What chance alone does to 100 endpoints with 240 requests each is 1.16."""
    assert fleet().spread(3, 13) < 1.2
    assert fleet().spread(WELL + 20, WELL + 30) < 1.25


@pytest.mark.parametrize(("fault", "seconds"), [(SLOWED, 4), (FAILING, 8), (DEAD, 5)])
def test_traffic_moves_away(fault: str, seconds: int) -> None:
    """A caller asks an endpoint 1.2 times a second here, so that it takes that long to fail three
    or five times."""
    assert fleet().left(fault, 0.25) <= seconds
    late = [fleet().share(fault, at) for at in range(BROKEN + 12, WELL - 1)]
    assert max(late) < 0.3
    assert sum(late) / len(late) < 0.15


def test_requests_fail_only_until_it_has() -> None:
    failed = fleet().failed
    assert sum(failed[:BROKEN]) == 0
    assert sum(failed[BROKEN + 12 : WELL]) / sum(failed[BROKEN : BROKEN + 12]) < 0.4
    assert sum(failed[WELL + 1 :]) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_traffic_comes_back_and_no_herd_with_it(fault: str) -> None:
    assert fleet().back(fault, 0.5) < 30
    assert max(fleet().share(fault, at) for at in range(WELL, END - 1)) < 1.6
    assert max(fleet().slowest[WELL:]) < 1.5 * max(fleet().slowest[5:BROKEN])


def test_the_same_seed_is_the_same_run_and_it_can_be_plotted() -> None:
    assert four(FAILING).counts == four(FAILING).counts
    assert plotted([fleet()]).count("<polyline") == len(FAULTS) + 3


def four(fault: str) -> Run:
    return run("peak_ewma", 4, 2, {0: fault}, seed=3, load=0.3)


def test_of_four_a_slow_one_is_felt_for_seconds_only() -> None:
    """A client's p99 is back within 20 % after 10 s."""
    found = four(SLOWED)
    usual = sum(found.slowest[5:BROKEN]) / (BROKEN - 5)
    late = found.slowest[BROKEN + 10 : WELL]
    assert sorted(late)[len(late) // 2] < 1.2 * usual


@pytest.mark.parametrize("fault", [FAILING, DEAD])
def test_of_four_a_failing_one_has_less_than_two_percent_after_five_seconds(fault: str) -> None:
    found = four(fault)
    assert found.left(fault, 0.08) <= 5
    late = [found.share(fault, at) / 4 for at in range(BROKEN + 5, WELL - 1)]
    assert sum(late) / len(late) < 0.02
    assert sum(found.failed) <= (0 if fault == DEAD else 60)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (4, 2, 1, 1)])
def test_shares_of_several_workers_are_right(weights: tuple[int, ...]) -> None:
    """Within 5 % over 10,000 requests that two workers get, each with its own knowledge."""
    found = run("peak_ewma", 4, 2, {}, seed=9, weights=weights)
    totals = [sum(column) for column in zip(*found.counts, strict=True)]
    share = sum(totals) / sum(weights)
    for total, weight in zip(totals, weights, strict=True):
        assert total == pytest.approx(share * weight, rel=0.05)
