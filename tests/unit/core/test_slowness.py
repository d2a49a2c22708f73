"""The p95 of answers."""

from __future__ import annotations

import random

import pytest

from fleetmesh.core.slowness import BOUNDS, LEAST, MEMORY, Slowness


@pytest.mark.parametrize("scale", [0.002, 0.05, 1.0])
def test_the_p95_is_right_within_a_fifth_and_never_early(scale: float) -> None:
    draw = random.Random(7)
    seen = [draw.expovariate(1 / scale) for _ in range(5000)]
    slowness = Slowness()
    for seconds in seen:
        slowness.observe(seconds)
    exact = sorted(seen[-MEMORY:])[int(0.95 * MEMORY)]
    assert 0.85 * exact <= slowness.p95 <= 1.4 * exact


def test_nothing_is_known_of_few() -> None:
    slowness = Slowness()
    for _ in range(LEAST - 1):
        slowness.observe(0.01)
    assert slowness.p95 == 0.0
    slowness.observe(0.01)
    assert 0.01 <= slowness.p95 <= 0.0121


def test_what_was_long_ago_is_forgotten() -> None:
    slowness = Slowness()
    for seconds in (1.0, 0.01):
        for _ in range(5 * MEMORY):
            slowness.observe(seconds)
    assert slowness.p95 <= 0.0121


def test_what_never_ends_has_a_bound() -> None:
    slowness = Slowness()
    for _ in range(LEAST):
        slowness.observe(1e9)
    assert slowness.p95 == BOUNDS[-1]
