"""The short form of `python -m tests.overload`."""

from __future__ import annotations

from tests.overload.__main__ import faults
from tests.overload.trial import CAPACITY, trial


async def test_a_service_under_fifty_times_its_load_does_what_it_can() -> None:
    """If need be at the second try: the machine has other work too."""
    found: list[str] = []
    for _ in range(2):
        outcome = await trial(True, 50, 6, 3)
        print(outcome.row)
        found = faults(outcome)
        if not found:
            return
    raise AssertionError(found)


async def test_without_adaptive_concurrency_it_collapses() -> None:
    """Or the test above would prove nothing."""
    outcome = await trial(False, 50, 6, 3)
    print(outcome.row)
    assert outcome.stretches[-1] < 0.1 * CAPACITY
