"""What is an algorithm's own: how many draws, how large a ring, how even a table."""

from __future__ import annotations

from collections import Counter
from random import Random as Source

import pytest

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import digest, mixed
from fleetmesh.balance.least_request import LeastRequest
from fleetmesh.balance.maglev import SIZES, Maglev
from fleetmesh.balance.random import Random
from fleetmesh.balance.ring_hash import LARGEST, RingHash
from fleetmesh.model.traffic import Balancing


def test_random_shares_are_those_of_the_weights() -> None:
    assert [Random(Choices("ab", [2, 1])).pick(number, 0.0) for number in range(6)] == [0, 0, 1] * 2


@pytest.mark.parametrize(("count", "least"), [(1, 0.45), (2, 0.2), (20, 0.0)])
def test_the_more_are_drawn_the_less_the_busy_one_gets(count: int, least: float) -> None:
    """Of two, one is busy: it wins only when every draw is of it."""
    busy = [5, 0]
    choices = Choices("ab", [1, 1], 0, Balancing("least_request", count), busy.__getitem__)
    picker, source = LeastRequest(choices), Source(3)
    share = sum(picker.pick(source.getrandbits(64), 0.0) == 0 for _ in range(4000)) / 4000
    assert least <= share <= least + 0.1


def test_requests_under_way_count_by_weight() -> None:
    """Three of an endpoint of weight eight are less than one of weight one."""
    choices = Choices("ab", [8, 1], 0, Balancing("least_request", 30), [3, 1].__getitem__)
    picker, source = LeastRequest(choices), Source(5)
    assert {picker.pick(source.getrandbits(64), 0.0) for _ in range(200)} == {0}


@pytest.mark.parametrize(
    ("least", "most", "weights", "size"),
    [
        (1024, 8388608, [1, 1], 1024),
        (10, 8388608, [1, 1, 1], 12),
        (1024, 100, [1, 1], 100),
        (8388608, 8388608, [1, 1], LARGEST),
        (1, 1, [1, 1, 1], 3),
        (4, 8388608, [3, 1], 4),
    ],
)
def test_the_size_of_a_ring(least: int, most: int, weights: list[int], size: int) -> None:
    balancing = Balancing("ring_hash", minimum_ring_size=least, maximum_ring_size=most)
    ring = RingHash(
        Choices("abc", weights, 0, balancing)
        if len(weights) == 3
        else Choices("ab", weights, 0, balancing)
    )
    assert len(ring._points) == size


def test_a_table_is_as_even_as_it_can_be() -> None:
    picker = Maglev(Choices([str(at) for at in range(20)], [1] * 20))
    counts = Counter(picker.pick(number, 0.0) for number in range(SIZES[0]))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_table_is_larger_for_many() -> None:
    assert len(Maglev(Choices([str(at) for at in range(200)], [1] * 200))._table) == SIZES[1]


def test_numbers_follow_from_what_is_hashed_and_from_nothing_else() -> None:
    """Another host must come to the same, in this release and in the next."""
    assert digest(b"user7") == 0x984D26348554C8AB
    assert mixed(0) == 0xE220A8397B1DCDAF  # the first of splitmix64's reference for seed 0
    assert len({mixed(number) for number in range(1000)}) == 1000
