from __future__ import annotations

from collections import Counter

import pytest

from fleetmesh.balance import HASHING, PICKERS, picker_of
from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import mixed
from fleetmesh.model.traffic import Balancing

ZONES = ["here", "there", "here", "", "there"]
POLICIES = sorted(PICKERS.keys() - HASHING)


def picked(policy: str, active: list[int], zone: str = "here", count: int = 2000) -> Counter[int]:
    balancing = Balancing(policy, local_zone=zone, spill=8)
    ids = [f"node{at}/api" for at in range(len(ZONES))]
    choices = Choices(ids, [1] * len(ZONES), 1, balancing, active.__getitem__, None, ZONES)
    chosen = picker_of(policy, choices)
    return Counter(chosen.pick(mixed(number), 1.0) for number in range(count))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_own_zone_has_all_while_it_keeps_up(policy: str) -> None:
    found = picked(policy, [7, 0, 7, 0, 0])
    assert set(found) == {0, 2}
    assert abs(found[0] - found[2]) < 200


@pytest.mark.parametrize("policy", POLICIES)
def test_what_it_cannot_do_spills_over(policy: str) -> None:
    assert set(picked(policy, [9, 0, 9, 0, 0])) == {1, 3, 4}
    # Those elsewhere are as busy: they take nothing off.
    assert set(picked(policy, [9, 9, 9, 9, 9])) == {0, 2}


@pytest.mark.parametrize("policy", ["round_robin", "random"])
def test_one_that_is_full_spills_its_own_share_alone(policy: str) -> None:
    found = picked(policy, [9, 0, 0, 0, 0])
    assert abs(found[2] - 1000) < 100
    assert found[0] == 0


@pytest.mark.parametrize("zone", ["", "nowhere"])
def test_without_a_zone_all_share(zone: str) -> None:
    assert set(picked("random", [0] * 5, zone)) == set(range(5))


def test_a_hash_knows_no_zones() -> None:
    assert set(picked("maglev", [0] * 5)) == set(range(5))
