from __future__ import annotations

import pytest

from fleetmesh.plan.renewal import Renewal, judge

LIFE = 100.0


@pytest.mark.parametrize(
    ("left", "answered", "expected"),
    [
        (51.0, True, Renewal.WELL),
        (11.0, True, Renewal.WELL),
        (10.0, True, Renewal.LATE),
        (5.0, True, Renewal.FAILED),
        (51.0, False, Renewal.WELL),
        (50.0, False, Renewal.LATE),
        (20.0, False, Renewal.FAILED),
        (0.0, True, Renewal.FAILED),
        (-1.0, False, Renewal.FAILED),
    ],
)
def test_half_a_life_says_nothing_while_consul_answers(
    left: float, answered: bool, expected: Renewal
) -> None:
    """Consul renews at any moment between 60 and 90 % of it."""
    assert judge(left, LIFE, answered) is expected


def test_a_certificate_without_life_has_failed() -> None:
    assert judge(10.0, 0.0, True) is Renewal.FAILED
