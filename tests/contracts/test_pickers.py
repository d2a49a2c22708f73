"""What every load-balancing algorithm must do, whichever it is."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from fleetmesh.balance import COUNTING, DEFAULT, HASHING, PICKERS, Picker
from fleetmesh.balance.choices import Choices

every = pytest.mark.parametrize("picker", PICKERS.values(), ids=PICKERS.keys())
hashing = pytest.mark.parametrize(
    "picker", [PICKERS[name] for name in sorted(HASHING)], ids=sorted(HASHING)
)


def choices(*weights: int, first: int = 0) -> Choices:
    return Choices([f"node{first + at}/api" for at in range(len(weights))], weights, 3)


def picks(picker: Picker, times: int, seed: int = 1) -> list[int]:
    random = Random(seed)
    return [picker.pick(random.getrandbits(64), 0.0) for _ in range(times)]


def test_what_is_said_of_algorithms_is_said_of_known_ones() -> None:
    assert {DEFAULT} | COUNTING | HASHING <= PICKERS.keys()


@every
@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [128, 1], [3, 2, 1], [7] * 50])
def test_only_what_exists_is_picked_and_nothing_is_left_out(
    picker: type[Picker], weights: list[int]
) -> None:
    found = picks(picker(choices(*weights)), 40 * sum(weights))
    assert set(found) == set(range(len(weights)))


@every
def test_shares_follow_the_weights(picker: type[Picker]) -> None:
    """A ring's are the least even: 1024 points are good for a tenth."""
    counts = Counter(picks(picker(choices(4, 2, 2)), 8000))
    for index, share in enumerate((4000, 2000, 2000)):
        assert abs(counts[index] - share) < 400


@every
@pytest.mark.parametrize("number", [0, 1, 2**63, 2**64 - 1])
def test_every_number_leads_somewhere(picker: type[Picker], number: int) -> None:
    assert picker(choices(3, 1, 2)).pick(number, 0.0) in (0, 1, 2)


@hashing
def test_the_same_number_leads_to_the_same_endpoint(picker: type[Picker]) -> None:
    """On every host, whatever the order of the catalog and the worker's number are."""
    one = picker(Choices(["a", "b", "c"], [1, 2, 3], 0))
    other = picker(Choices(["c", "a", "b"], [3, 1, 2], 5))
    here = ["abc"[index] for index in picks(one, 2000)]
    assert here == ["cab"[index] for index in picks(other, 2000)]


@hashing
def test_an_endpoint_that_goes_moves_little_but_its_own(picker: type[Picker]) -> None:
    whole = picks(picker(choices(*[1] * 10)), 4000)
    without = picks(picker(choices(*[1] * 9)), 4000)
    stayed = [after == before for before, after in zip(whole, without, strict=True) if before < 9]
    assert len(stayed) > 3400
    assert stayed.count(False) < 0.1 * len(stayed)
