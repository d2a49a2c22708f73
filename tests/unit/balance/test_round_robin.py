"""Round robin: exact, interleaved, and not the same first endpoint for every worker."""

from __future__ import annotations

from collections import Counter

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.round_robin import RoundRobin


def test_equal_weights_go_around() -> None:
    picker = RoundRobin(Choices("abc", [1, 1, 1]))
    assert [picker.pick(0, 0.0) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_offset_says_where_to_begin() -> None:
    pickers = [RoundRobin(Choices("abc", [1, 1, 1], offset)) for offset in range(4)]
    assert [picker.pick(0, 0.0) for picker in pickers] == [0, 1, 2, 0]


def test_shares_are_exact_and_no_endpoint_comes_in_bursts() -> None:
    picker = RoundRobin(Choices("abc", [5, 1, 1]))
    picks = [picker.pick(0, 0.0) for _ in range(70)]
    assert Counter(picks) == {0: 50, 1: 10, 2: 10}
    assert all(picks[at : at + 7].count(0) <= 6 for at in range(60))
