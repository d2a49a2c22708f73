"""How many requests an application gets at once, in simulated time."""

from __future__ import annotations

import random

import pytest
from tests.support.service import Service

from fleetmesh.core.concurrency import EPOCH, GROWING, INITIAL, Concurrency


def limits(workers: int) -> list[Concurrency]:
    return [Concurrency(workers, 0.0) for _ in range(workers)]


@pytest.mark.parametrize(
    ("slots", "seconds", "workers"),
    [(4, 0.2, 1), (4, 0.2, 2), (4, 0.02, 1), (4, 0.02, 2), (40, 0.02, 1), (40, 0.02, 8)],
)
def test_fifty_times_what_it_can_carry(slots: int, seconds: float, workers: int) -> None:
    """It does all that it can, and those that are let in do not wait long; but for the first of
    them, which come before anything is known."""
    capacity = slots / seconds
    service = Service(slots, lambda _: seconds, limits(workers))
    service.run(10, capacity / 2)
    normal = service.latency(0, 10, 0.5)
    service.run(30, min(50 * capacity, 4000))
    for begin in range(10, 40, 2):
        assert service.goodput(begin, begin + 2, 6 * normal) >= 0.8 * capacity, begin
    assert service.latency(12, 40, 0.5) <= 2.2 * normal
    assert service.latency(12, 40, 0.99) <= 3.2 * normal


def test_without_a_limit_nothing_is_in_time_any_more() -> None:
    service = Service(4, lambda _: 0.2)
    service.run(10, 10)
    service.run(10, 100)
    assert service.goodput(15, 20, 2.0) == 0


def test_what_has_no_queue_is_let_grow() -> None:
    """However much its latencies differ from one request to the next."""
    chance = random.Random(3)
    service = Service(10**6, lambda _: chance.expovariate(10), limits(1))
    service.run(10, 500)
    service.run(30, 2000)
    assert service.refused[False] < 0.01 * service.admitted[False]


def test_an_application_that_has_become_slower_is_not_held_for_overloaded() -> None:
    """A database that takes three times as long: within two looks that is what is normal."""
    service = Service(10**6, lambda now: 0.1 if now < 15 else 0.3, limits(2))
    service.run(15, 1000)
    service.run(4 * EPOCH, 1000)
    assert service.goodput(15 + 3 * EPOCH, 15 + 4 * EPOCH, 1) > 950


def test_what_was_needed_long_ago_is_not_kept() -> None:
    limit = limits(1)
    service = Service(10**6, lambda _: 0.1, limit)
    service.run(10, 1000)
    assert limit[0].limit > 100
    service.run(2 * EPOCH + 1, 10)
    assert limit[0].limit <= 2 * INITIAL
    assert limit[0].state == GROWING


def test_requests_that_are_under_way_go_before_those_that_begin() -> None:
    """As many of them as are a fifth of what can be done are all but untouched."""
    service = Service(20, lambda _: 0.1, limits(1), share=0.02)
    service.run(10, 100)
    service.run(20, 2000)
    admitted, refused = service.admitted, service.refused
    assert admitted[True] > 0.9 * (admitted[True] + refused[True])
    assert admitted[False] < 0.2 * (admitted[False] + refused[False])


def test_failures_tell_nothing_of_how_long_an_answer_takes() -> None:
    limit = Concurrency(1, 0.0)
    for at in range(100):
        limit.answered(500, 0.001, at / 100)
        limit.answered(101, 0.001, at / 100)
        limit.unanswered(at / 100)
        limit.shed(0.001, at / 100)
        limit.broke_off()
        limit.reached(at / 100)
    assert limit.baseline == 0.0
    assert limit.limit == INITIAL


def test_whoever_gave_up_has_waited_at_least_so_long() -> None:
    limit = Concurrency(1, 0.0)
    for at in range(20):
        limit.answered(200, 0.1, at / 10)
    limit.waited(0.05, 3.0)
    assert limit.baseline == pytest.approx(0.1)
    for _ in range(3):
        limit.waited(2.0, 3.0)
    assert limit.state != GROWING


def test_one_request_is_let_in_whatever_it_takes() -> None:
    limit = Concurrency(8, 0.0)
    for at in range(1000):
        now = at * 0.3
        assert limit.admits(0, False, now)
        limit.admits(50, False, now)
        limit.answered(200, 0.1 if at < 20 else 10.0, now)
    assert limit.limit >= 1.0
