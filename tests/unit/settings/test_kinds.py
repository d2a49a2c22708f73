"""Durations, in and out."""

from __future__ import annotations

import pytest

from fleetmesh.settings.kinds import Wrong, go_duration, seconds_of


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, 5.0),
        (0.25, 0.25),
        ("250ms", 0.25),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("2h45m0.5s", 9900.5),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_read(written: object, seconds: float) -> None:
    assert seconds_of(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "5", "s", "5 s", "-5s", "5x", "1m 30s", True, -1, float("nan"), float("inf")]
)
def test_what_is_no_duration(written: object) -> None:
    assert isinstance(seconds_of(written), Wrong)


@pytest.mark.parametrize(
    ("seconds", "written"), [(5, "5s"), (0.25, "250ms"), (90, "90s"), (1.5, "1500ms")]
)
def test_a_duration_as_consul_takes_it(seconds: float, written: str) -> None:
    assert go_duration(seconds) == written
    assert seconds_of(written) == seconds
