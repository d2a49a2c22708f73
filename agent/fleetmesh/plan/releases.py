"""When a host falls back to the release that it had before.

A release is on probation until it has served for `PROBATION` seconds on end. One that fails before
that, while there is a release that did not, is given up: at once when it did not become ready in
its time, else with its third crash. One that has served is never given up: what ails it is not
what was rolled out.
"""

from __future__ import annotations

import msgspec

from fleetmesh.model.release import Releases

PROBATION = 30.0
"""Seconds that a release serves until it counts as known to be ready."""
CRASHES = 3
KEPT = 16
"""Of the releases known to be ready, the newest are remembered."""


class End(msgspec.Struct, frozen=True):
    """How the agent's process ended. `result` is systemd's $SERVICE_RESULT, `restarts` how often
    systemd has started it again by itself since somebody started it."""

    result: str
    was_ready: bool
    restarts: int
    stopped: bool


def given_up(end: End, releases: Releases) -> str:
    """Why the current release is given up for the previous one; empty when it is not."""
    current, previous = releases.current, releases.previous
    if end.stopped or end.result == "success" or current in releases.ready:
        return ""
    if not previous or previous == current or previous not in releases.installed:
        return ""
    if end.result in ("timeout", "watchdog") and not end.was_ready:
        return "it did not become ready in time"
    if end.restarts + 1 >= CRASHES:
        return (
            f"it ended {end.restarts + 1} times ({end.result}) before it had served {PROBATION:g} s"
        )
    return ""


def proven(ready: tuple[str, ...], version: str) -> tuple[str, ...]:
    """Those known to be ready, newest last."""
    return (*(one for one in ready if one != version), version)[-KEPT:]


def kept_for(releases: Releases) -> str:
    """What to fall back to once another release is current."""
    return releases.current if releases.current in releases.ready else releases.previous
