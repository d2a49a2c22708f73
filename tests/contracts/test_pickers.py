"""What every load-balancing algorithm must do, whichever it is."""

from __future__ import annotations

from collections import Counter

import pytest

from fleetmesh.balance import PICKERS, Picker

every = pytest.mark.parametrize("picker", PICKERS.values(), ids=PICKERS.keys())


@every
@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [128, 1], [3, 2, 1], [7] * 50])
def test_only_what_exists_is_picked_and_nothing_is_left_out(
    picker: type[Picker], weights: list[int]
) -> None:
    chooser = picker(weights, 3)
    assert {chooser.pick() for _ in range(40 * sum(weights))} == set(range(len(weights)))


@every
def test_shares_follow_the_weights(picker: type[Picker]) -> None:
    chooser = picker([4, 2, 2], 0)
    counts = Counter(chooser.pick() for _ in range(8000))
    for index, share in enumerate((4000, 2000, 2000)):
        assert abs(counts[index] - share) < 400
