from __future__ import annotations

import random

import pytest

from fleetmesh.core.tail import Tail, p90, together


def tail(*times: float) -> Tail:
    found = Tail()
    for seconds in times:
        found.observe(seconds)
    return found


@pytest.mark.parametrize("scale", [0.002, 0.03, 1.7, 900.0])
def test_it_is_right_within_a_third(scale: float) -> None:
    drawn = random.Random(7)
    times = [scale * drawn.expovariate(1.0) for _ in range(1000)]
    assert p90(tail(*times).counts) == pytest.approx(sorted(times)[900], rel=0.33)


def test_of_nothing_it_is_zero_and_of_much_it_ends() -> None:
    assert p90([]) == p90(together([Tail(), Tail()])) == 0.0
    assert p90(tail(1e6).counts) > 4000
    assert p90(tail(0.0).counts) < 0.001


def test_together_and_forgotten() -> None:
    one, other = tail(*[0.01] * 90), tail(*[1.0] * 10)
    assert p90(together([one, other])) < 0.02
    other.forget()
    assert together([one, other]) == one.counts
