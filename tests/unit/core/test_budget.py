"""The retry budget."""

from __future__ import annotations

import pytest

from fleetmesh.core.budget import MOST, Budget


@pytest.mark.parametrize(("rate", "seconds"), [(1000, 60), (100, 60), (20, 300)])
def test_a_callee_that_fails_everything_sees_little_more_than_the_demand(
    rate: int, seconds: int
) -> None:
    """Every request would be retried for ever. What is saved up is spent at once."""
    budget = Budget(0.2, 3)
    sent = 0
    for number in range(rate * seconds):
        budget.earn("web", number)
        sent += 1
        while budget.spend(1 + number / rate):
            sent += 1
    assert sent <= rate * seconds * 1.2 + 3 * seconds + 30
    assert sent >= rate * seconds * 1.2 - 1


def test_few_requests_can_be_sent_again_too() -> None:
    """Three a second, after the first thirty."""
    budget = Budget(0.0, 3)
    now = 1.0
    assert sum(budget.spend(now) for _ in range(100)) == 30
    assert sum(budget.spend(now + 1) for _ in range(100)) == 3
    assert sum(budget.spend(now + 1000) for _ in range(1000)) == MOST


def test_no_budget_is_no_retry() -> None:
    budget = Budget(0.0, 0)
    budget.earn("web", 0)
    budget.earn("web", 1000)
    assert not budget.spend(1.0)
    assert not budget.spend(100.0)


def test_time_that_does_not_pass_earns_nothing() -> None:
    budget = Budget(1.0, 0)
    budget.earn("web", 7)
    budget.earn("web", 8)
    assert [budget.spend(5.0), budget.spend(5.0)] == [True, False]


def test_each_caller_earns_and_only_from_its_first_count_on() -> None:
    """The requests of an hour ago are no reason to send one again now."""
    budget = Budget(0.5, 0)
    budget.earn("web", 1000)
    assert not budget.spend(1.0)
    budget.earn("web", 1001)
    budget.earn("job", 50)
    assert not budget.spend(1.0)
    budget.earn("job", 51)
    assert [budget.spend(1.0), budget.spend(1.0)] == [True, False]
