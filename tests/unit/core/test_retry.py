"""What is retried, and when."""

from __future__ import annotations

import pytest

from fleetmesh.core.budget import Budget
from fleetmesh.core.retry import pause, policy
from fleetmesh.core.route_rules import problems
from fleetmesh.model.traffic import Retries, Route

BUDGET = Budget(0.2, 3)


@pytest.mark.parametrize(
    ("on", "retried", "connect", "reset"),
    [
        ("5xx", {500, 503, 599}, True, True),
        ("gateway-error", {502, 503, 504}, True, True),
        ("retriable-4xx", {409}, False, False),
        ("connect-failure", set(), True, False),
        ("reset", set(), False, True),
    ],
)
def test_conditions(on: str, retried: set[int], connect: bool, reset: bool) -> None:
    made = policy(Retries(1, (on,), (418,)), BUDGET)
    assert made is not None
    asked = {200, 409, 418, 499, 500, 502, 503, 504, 599, 600}
    assert retried | {418} <= made.statuses
    if on != "5xx":
        assert made.statuses & asked == retried | {418}
    assert (made.connect, made.reset) == (connect, reset)


def test_nothing_to_retry_is_no_policy() -> None:
    assert policy(Retries(), BUDGET) is None
    assert policy(Retries(3), BUDGET) is None
    assert policy(Retries(0, ("5xx",)), BUDGET) is None


def test_pauses_grow_to_a_limit() -> None:
    pauses = [pause(number, 1.0) for number in (1, 2, 3, 4, 50)]
    assert pauses == pytest.approx([0.025, 0.075, 0.175, 0.25, 0.25])
    assert pause(3, 0.0) == 0.0


def test_an_unknown_condition_is_a_problem() -> None:
    (found,) = problems([Route("a", retries=Retries(1, ("5xx", "6xx")))], "routes")
    assert found.path == "routes[0].retries.on[1]"
