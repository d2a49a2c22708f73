"""Peak-EWMA: what a latency is taken for, and who is picked for it."""

from __future__ import annotations

from collections import Counter
from math import exp
from random import Random

import pytest

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.latency import DECAY, FADE, Latency
from fleetmesh.balance.peak_ewma import NOISE, PeakEwma


def latency(*samples: tuple[float, float]) -> Latency:
    found = Latency()
    for seconds, now in samples:
        found.observe(seconds, now)
    return found


def test_a_peak_counts_at_once_and_what_is_quicker_by_the_time() -> None:
    assert latency((0.1, 1.0), (2.0, 1.1)).estimate(1.1) == 2.0
    later = latency((2.0, 0.0), (0.1, DECAY)).estimate(DECAY)
    assert later == pytest.approx(0.1 + 1.9 * exp(-1))
    assert latency((2.0, 5.0), (0.1, 5.0)).estimate(5.0) == 2.0


def test_without_a_sample_it_fades_and_a_late_clock_changes_nothing() -> None:
    found = latency((2.0, 10.0))
    assert found.estimate(9.8) == found.estimate(10.0) == 2.0
    assert found.estimate(10.0 + FADE) == pytest.approx(2.0 * exp(-1))
    assert Latency().estimate(7.0) == 0.0


def shares(
    weights: list[int], latencies: list[float], busy: list[int], times: int = 6000
) -> list[float]:
    picker = PeakEwma(
        Choices(
            [str(at) for at in range(len(weights))],
            weights,
            active=busy.__getitem__,
            latencies=[latency((seconds, 0.0)) for seconds in latencies],
        )
    )
    source = Random(4)
    found = Counter(picker.pick(source.getrandbits(64), 0.0) for _ in range(times))
    return [found[at] / times for at in range(len(weights))]


def test_the_slow_one_gets_nothing_while_there_are_quick_ones() -> None:
    found = shares([1, 1, 1, 1], [0.001, 0.001, 2.0, 0.001], [0, 0, 0, 0])
    assert found[2] == 0.0
    assert shares([1, 1], [2.0, 0.001], [0, 0]) == [0.0, 1.0]


def test_a_quick_one_that_is_busy_enough_is_left_for_a_slow_one() -> None:
    assert shares([1, 1], [0.1, 0.01], [0, 8]) == [0.0, 1.0]
    assert shares([1, 1], [0.1, 0.01], [0, 10]) == [1.0, 0.0]


def test_latencies_within_the_noise_are_alike_and_the_less_busy_wins() -> None:
    even = shares([1, 1], [0.010, 0.010 * NOISE * 0.99], [0, 0])
    assert even[0] == pytest.approx(0.5, abs=0.03)
    assert shares([1, 1], [0.010, 0.010 * NOISE * 0.99], [1, 0]) == [0.0, 1.0]
    assert shares([1, 1], [0.010, 0.010 * NOISE * 1.01], [0, 0]) == [1.0, 0.0]


def test_who_has_not_answered_yet_is_neither_flooded_nor_left_out() -> None:
    """Whatever its service takes: against 1 ms and against 10 s."""
    for known in (0.001, 10.0):
        found = shares([1, 1, 1, 1], [known, known, known, 0.0], [2, 2, 2, 2])
        assert found[3] == pytest.approx(0.25, abs=0.03)
        assert shares([1, 1], [known, 0.0], [2, 3]) == [1.0, 0.0]


def test_of_equals_each_gets_its_weights_share_idle_and_under_load() -> None:
    for busy in ([0, 0, 0], [4, 2, 2], [40, 20, 20]):
        found = shares([4, 2, 2], [0.01] * 3, busy)
        assert found == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


def test_both_draws_are_by_weight_and_differ() -> None:
    """A heavy endpoint that is the worse choice of every pair gets nothing at all."""
    assert shares([100, 1, 1], [1.0, 0.01, 0.01], [0, 0, 0])[0] == 0.0
    assert shares([1, 100, 3], [1.0, 1.0, 0.01], [0, 0, 0])[0] == pytest.approx(0, abs=0.02)
