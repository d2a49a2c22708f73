"""Capture suspended by an operator: for a time, for a reason, and never where that opens a door.

Nothing new is captured, while the chains stay: connections that were redirected are translated by
the kernel for as long as a nat chain hangs where theirs did. Until it ends nothing is armed or
undone: a rule set that nobody meets cannot be confirmed.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from fleetmesh.capture.redirect import Inputs
from fleetmesh.capture.switch import Held, Switch
from fleetmesh.model.problem import Problem

MAX_SECONDS = 4 * 3600.0


class Bypass(msgspec.Struct, frozen=True):
    """It ends at `until`, in seconds of CLOCK_BOOTTIME; `since` is of the epoch."""

    until: float
    since: float
    by: str
    why: str


def closed(wanted: Inputs) -> tuple[str, ...]:
    """The services that are never to be open without an agent, and so not with one either."""
    return tuple(service.name for service in wanted.services if service.stays_closed)


def objection(switch: Switch, wanted: Inputs | None) -> Problem | None:
    """Why capture of `wanted` cannot be suspended now."""
    if wanted is None or not wanted.services:
        return Problem("bypass", "nothing is captured", "fleetmesh status tells why")
    if names := closed(wanted):
        are = "is" if len(names) == 1 else "are"
        return Problem(
            "bypass",
            f"{', '.join(names)} {are} to stay closed (on_stop: closed)",
            "Let it be open in the settings first, if it may be",
        )
    if switch.held is not Held.NO:
        return Problem("bypass", f"capture is {switch.held} already", "fleetmesh capture apply")
    if switch.pending is not None:
        return Problem("bypass", "the rules are not confirmed yet", "fleetmesh capture confirm")
    return None


def suspended(wanted: Inputs) -> Inputs:
    return replace(wanted, suspended=True)
