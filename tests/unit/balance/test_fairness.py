"""Shares of endpoints over all workers of a host, of 10,000 requests."""

from __future__ import annotations

from random import Random

import pytest

from fleetmesh.balance import HASHING, PICKERS, Choices, picker_of
from fleetmesh.model.traffic import Balancing

REQUESTS = 10_000
EQUAL = (1, 1, 1, 1)
UNEQUAL = (4, 2, 1, 1)


def counts(
    policy: str, weights: tuple[int, ...], workers: int, busy: int, seed: int = 5
) -> list[int]:
    """Each worker has its own picker, its number and as many requests as the others; each of them
    has `busy` under way, which end by chance."""
    random = Random(seed)
    found = [0] * len(weights)
    for number in range(1, workers + 1):
        active = [0] * len(weights)
        ids = [f"node{at}/api" for at in range(len(weights))]
        choices = Choices(ids, weights, number, Balancing(policy), active.__getitem__)
        own = picker_of(policy, choices)
        under_way: list[int] = []
        for _ in range(REQUESTS // workers):
            if len(under_way) == busy:
                active[under_way.pop(random.randrange(busy))] -= 1
            at = own.pick(random.getrandbits(64), 0.0)
            active[at] += 1
            under_way.append(at)
            found[at] += 1
    return found


def assert_shares(found: list[int], weights: tuple[int, ...], within: float = 0.05) -> None:
    share = REQUESTS / sum(weights)
    for count, weight in zip(found, weights, strict=True):
        assert count == pytest.approx(share * weight, rel=within)


@pytest.mark.parametrize("policy", sorted(PICKERS.keys() - HASHING))
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("busy", [1, 2, 8])
def test_equal_endpoints_have_equal_shares(policy: str, workers: int, busy: int) -> None:
    assert_shares(counts(policy, EQUAL, workers, busy), EQUAL)


@pytest.mark.parametrize("policy", sorted(PICKERS.keys() - HASHING))
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("busy", [1, 2, 4, 8, 32])
def test_shares_keep_to_the_weights_however_busy(policy: str, workers: int, busy: int) -> None:
    assert_shares(counts(policy, UNEQUAL, workers, busy), UNEQUAL)
    assert_shares(counts(policy, (10, 1), workers, busy), (10, 1))


def test_turns_do_not_begin_with_the_same_endpoint_in_every_worker() -> None:
    """125 workers make seven rounds of eleven endpoints and three turns more."""
    assert_shares(counts("round_robin", (1,) * 11, 125, 1), (1,) * 11)
