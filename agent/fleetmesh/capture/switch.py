"""The dead man's switch: rules that nobody has confirmed are undone when their time is up.

A rule set that was confirmed on this host once is applied without further ado, and so is what is
left of it when services are gone (or have not got their certificate yet). Any other is armed:
unless a confirmation arrives before the deadline, what was confirmed before comes back (or no
rules at all), and the same rule set is not tried again before it changes or somebody asks for it.
What an operator removed stays removed until somebody asks for it.

Times are seconds of CLOCK_BOOTTIME, given as arguments.
"""

from __future__ import annotations

import enum

import msgspec

from fleetmesh.capture.redirect import Inputs, ruleset, still_served

NOTHING = Inputs()


class Held(enum.StrEnum):
    """Why wanted rules are not applied."""

    NO = "no"
    REMOVED = "removed"
    UNDONE = "undone"


class Pending(msgspec.Struct, frozen=True):
    """Rules in force that nobody has confirmed yet."""

    inputs: Inputs
    deadline: float


class Switch(msgspec.Struct, frozen=True):
    """`confirmed` is what comes back when `pending` expires; `undone` what had expired."""

    confirmed: Inputs | None = None
    pending: Pending | None = None
    held: Held = Held.NO
    undone: Inputs | None = None


def want(switch: Switch, wanted: Inputs, now: float, patience: float) -> tuple[Switch, Inputs]:
    """The switch after `wanted` became what the host should have, and what to put in force.

    `patience` is how many seconds a confirmation may take.
    """
    if switch.held is Held.REMOVED:
        return switch, NOTHING
    if not wanted.services:
        return Switch(confirmed=switch.confirmed), NOTHING
    if switch.confirmed is not None:
        if _same(switch.confirmed, wanted):
            return Switch(confirmed=wanted), wanted
        if _same(still_served(switch.confirmed, wanted), wanted):
            return Switch(confirmed=switch.confirmed), wanted
    if switch.pending is not None and _same(switch.pending.inputs, wanted):
        pending = Pending(wanted, switch.pending.deadline)
        return Switch(confirmed=switch.confirmed, pending=pending), wanted
    if _same(switch.undone, wanted):
        return switch, _before(switch, wanted)
    return Switch(confirmed=switch.confirmed, pending=Pending(wanted, now + patience)), wanted


def insist(
    switch: Switch, wanted: Inputs, now: float, patience: float, *, anew: bool = False
) -> tuple[Switch, Inputs]:
    """`want`, after somebody asked for it: nothing is held back, and the deadline is a new one.

    With no `patience` the asking is the confirmation. `anew`: an earlier confirmation of these
    very rules does not count, so that without a new one they are undone to nothing.
    """
    if wanted.services and patience <= 0:
        return Switch(confirmed=wanted), wanted
    if anew and _same(switch.confirmed, wanted):
        switch = Switch()
    return want(Switch(confirmed=switch.confirmed), wanted, now, patience)


def confirm(switch: Switch) -> Switch:
    """Unchanged when nothing is pending."""
    return switch if switch.pending is None else Switch(confirmed=switch.pending.inputs)


def expired(switch: Switch, now: float) -> bool:
    return switch.pending is not None and now >= switch.pending.deadline


def undo(switch: Switch, wanted: Inputs) -> tuple[Switch, Inputs]:
    """The switch after its deadline, and what to put in force instead."""
    pending = wanted if switch.pending is None else switch.pending.inputs
    after = Switch(confirmed=switch.confirmed, held=Held.UNDONE, undone=pending)
    return after, _before(after, wanted)


def remove() -> Switch:
    """The switch after an operator removed the rules: no earlier confirmation counts."""
    return Switch(held=Held.REMOVED)


def settled(switch: Switch, in_force: Inputs) -> Inputs:
    """What of `in_force` may outlive the agent: nothing that nobody confirmed."""
    return in_force if switch.pending is None else _before(switch, in_force)


def _same(one: Inputs | None, other: Inputs) -> bool:
    return one is not None and ruleset(one) == ruleset(other)


def _before(switch: Switch, wanted: Inputs) -> Inputs:
    return NOTHING if switch.confirmed is None else still_served(switch.confirmed, wanted)
