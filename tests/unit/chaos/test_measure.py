"""What is said of a run: made-up requests of which the answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
from tests.chaos.measure import Request, Span, came_back, moved_away

NAMES = ("api1", "api2", "api3", "api4")
RATE = 100


def steady(start: float, end: float, names: tuple[str, ...] = NAMES) -> list[Request]:
    """RATE requests a second, answered in turn within 5 ms."""
    turns = itertools.cycle(names)
    count = round((end - start) * RATE)
    return [Request(start + n / RATE, 5.0, 200, f"{next(turns)}/api") for n in range(count)]


def test_success_and_percentiles_count_every_request() -> None:
    requests = [*steady(0, 1), Request(0.5, 20_000.0, 0, "no answer in time")]
    span = Span.of(requests, 0, 1)
    assert span.success == pytest.approx(100 / 101)
    assert span.percentile(0.5) == 5.0
    assert span.percentile(0.995) == math.inf
    assert span.failures == [requests[-1]]
    assert Span.of(requests, 2, 3).success == 1.0


def test_a_span_is_half_open() -> None:
    assert len(Span.of(steady(0, 3), 1, 2).requests) == RATE


def test_share_is_of_all_answers_whatever_their_status() -> None:
    requests = [Request(0.1, 1, 500, "api2/api"), Request(0.2, 1, 200, "api1/api")]
    assert Span.of(requests, 0, 1).share(["api2"]) == 0.5
    assert not Request(0, 1, 200, "api21/api").by(["api2"])


def test_traffic_that_left_after_two_seconds() -> None:
    requests = steady(0, 2) + steady(2, 10, ("api1", "api3", "api4"))
    assert moved_away(Span.of(requests, 0, 10), ["api2"], 250) == pytest.approx(2, abs=0.25)


def test_a_probe_now_and_then_is_not_traffic_but_a_new_wave_is() -> None:
    requests = steady(0, 10, ("api1", "api3", "api4"))
    requests += [Request(4.1, 3.0, 500, "api2/api"), Request(7.1, 3.0, 500, "api2/api")]
    assert moved_away(Span.of(requests, 0, 10), ["api2"], 250) == 0.0
    requests += [Request(5.0 + n / 100, 3.0, 500, "api2/api") for n in range(10)]
    away = moved_away(Span.of(requests, 0, 10), ["api2"], 250)
    assert away == pytest.approx(5.1, abs=0.25)


def test_slow_answers_of_others_are_felt_too() -> None:
    """A request that waited for a black hole and was then answered by another."""
    requests = [Request(n / RATE, 900.0, 200, "api1/api") for n in range(300)]
    requests += steady(3, 10, ("api1", "api3", "api4"))
    assert moved_away(Span.of(requests, 0, 10), ["api2"], 250) == pytest.approx(3, abs=0.25)


def test_traffic_that_never_leaves() -> None:
    assert moved_away(Span.of(steady(0, 10), 0, 10), ["api2"], 250) is None


def test_back_is_half_an_even_share_of_good_answers() -> None:
    away = steady(0, 6, ("api1", "api3", "api4"))
    broken = [Request(n / RATE, 1.0, 500, "api2/api") for n in range(600)]
    span = Span.of(away + broken + steady(6, 12), 0, 12)
    back = came_back(span, ["api2"], len(NAMES))
    assert back is not None
    assert 5 <= back <= 6
    assert came_back(Span.of(away, 0, 6), ["api2"], len(NAMES)) is None


def test_all_victims_have_to_be_back() -> None:
    half = steady(0, 4, ("api1", "api2")) + steady(4, 8)
    back = came_back(Span.of(half, 0, 8), ["api2", "api3"], len(NAMES))
    assert back == pytest.approx(3, abs=0.5)
