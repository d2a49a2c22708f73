"""When is a release given up for the one before?"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fleetmesh.model.release import Releases
from fleetmesh.plan.releases import KEPT, End, given_up, kept_for, proven

HOST = Releases(
    running="new", current="new", previous="old", installed=("old", "new"), ready=("old",)
)
CRASH = End("exit-code", was_ready=False, restarts=2, stopped=False)
HANG = End("timeout", was_ready=False, restarts=0, stopped=False)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (CRASH, "it ended 3 times (exit-code) before it had"),
        (replace(CRASH, was_ready=True, result="signal"), "it ended 3 times (signal) before"),
        (HANG, "it did not become ready in time"),
        (replace(HANG, result="watchdog"), "it did not become ready in time"),
    ],
)
def test_a_release_that_fails_on_probation_is_given_up(end: End, why: str) -> None:
    assert given_up(end, HOST).startswith(why)


@pytest.mark.parametrize(
    "end",
    [
        replace(CRASH, restarts=1),
        replace(CRASH, result="success"),
        replace(CRASH, stopped=True),
        replace(HANG, stopped=True),
        replace(HANG, was_ready=True),  # it took too long to stop
    ],
)
def test_what_is_no_failure_of_a_release(end: End) -> None:
    assert given_up(end, HOST) == ""


@pytest.mark.parametrize(
    "host",
    [
        replace(HOST, ready=("old", "new")),
        replace(HOST, previous=""),
        replace(HOST, previous="new"),
        replace(HOST, installed=("new",)),
    ],
)
def test_nothing_to_fall_back_to_or_no_reason(host: Releases) -> None:
    """A release that has served is not what is wrong; one that is gone cannot be run."""
    for end in (CRASH, HANG):
        assert given_up(end, host) == ""


def test_only_a_release_that_has_served_is_fallen_back_to() -> None:
    assert kept_for(HOST) == "old"
    assert kept_for(replace(HOST, ready=("old", "new"))) == "new"
    assert kept_for(replace(HOST, current="", previous="")) == ""


def test_the_newest_are_remembered() -> None:
    assert proven(("a", "b"), "a") == ("b", "a")
    many: tuple[str, ...] = ()
    for number in range(2 * KEPT):
        many = proven(many, str(number))
    assert len(many) == KEPT
    assert many[-1] == str(2 * KEPT - 1)
