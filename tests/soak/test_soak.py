"""The soak's short form, and that its verdict can fail."""

from __future__ import annotations

import dataclasses

import pytest
from tests.soak.__main__ import soak
from tests.soak.samples import Sample, faults, growth

FLAT = [Sample(10.0 * n, 100_000_000, 80, 0.1 * n, 50 * n, 0) for n in range(60)]


def grown(by: float) -> list[Sample]:
    """So many bytes a sample."""
    return [dataclasses.replace(s, memory=int(s.memory + by * n)) for n, s in enumerate(FLAT)]


def test_memory_that_grows_and_files_that_stay_are_leaks() -> None:
    assert faults(FLAT, 80, 80, {}, 0) == []
    assert faults(grown(20_000), 80, 80, {}, 0) == []
    (memory,) = faults(grown(200_000), 80, 80, {}, 0)
    assert memory.startswith("memory grew by 8.2 MB")
    assert faults(FLAT, 80, 100, {}, 0) == ["20 file descriptors more than before the load"]


def test_warming_up_is_no_leak() -> None:
    warming = [dataclasses.replace(s, memory=10_000_000) if s.at < 180 else s for s in FLAT]
    assert growth(warming) == pytest.approx(0)


def test_what_was_not_provoked_is_told() -> None:
    assert faults(FLAT, 80, 80, {"small GET: status 503": 3}, 1) == [
        "1 workers died",
        "3 times: small GET: status 503",
    ]


async def test_twenty_seconds_of_everything() -> None:
    """Nothing fails that was not provoked, and no file descriptor is left."""
    assert await soak(minutes=1 / 3, rate=40, every=2, change_every=3) == []
