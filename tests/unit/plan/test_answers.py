from __future__ import annotations

import pytest

from fleetmesh.plan.answers import seconds


@pytest.mark.parametrize(
    ("duration", "value"),
    [
        ("5s", 5.0),
        ("250ms", 0.25),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        (3_000_000_000, 3.0),
        ("", 0.0),
        (0, 0.0),
    ],
)
def test_go_durations_in_seconds(duration: str | int, value: float) -> None:
    """Strings of 1.8, nanoseconds of later versions."""
    assert seconds(duration) == value
