"""What is preferred seems busier, what is passed over less so, and neither for ever."""

from __future__ import annotations

from random import Random

import pytest

from fleetmesh.balance import picker_of
from fleetmesh.balance.choices import Choices
from fleetmesh.balance.tilts import MOST, STEP, Tilts
from fleetmesh.model.traffic import Balancing


def test_whoever_is_preferred_seems_busier_by_less_than_half_a_request() -> None:
    tilts = Tilts([4, 2, 1])
    tilts.prefer(1, 0)
    assert tilts.of == pytest.approx([-STEP, STEP, 0.0])
    for _ in range(1000):
        tilts.prefer(1, 0)
    assert tilts.of == [-MOST, MOST, 0.0]
    even = Tilts([2, 2])
    even.prefer(1, 0)
    assert even.of == [0.0, 0.0]


@pytest.mark.parametrize("policy", ["peak_ewma", "least_request"])
def test_the_busier_of_two_is_left_however_long_that_goes(policy: str) -> None:
    """And when it is as busy as the other it does not get all that it missed."""
    active = [2, 0]
    choices = Choices("ab", [3, 2], 0, Balancing(policy, 8), active.__getitem__)
    picker, random = picker_of(policy, choices), Random(3)
    picks = [picker.pick(random.getrandbits(64), 0.0) for _ in range(2000)]
    assert picks.count(0) <= 0.03 * 2000  # those of which every draw fell on it
    active[0] = 0
    after = [picker.pick(random.getrandbits(64), 0.0) for _ in range(200)]
    assert after.count(0) == pytest.approx(120, abs=30)
