"""The releases of fleetmesh that a host has."""

from __future__ import annotations

import msgspec


class Fallback(msgspec.Struct, frozen=True):
    """The host gave `failed` up for `to`; `at` is wall time in seconds."""

    failed: str
    to: str
    why: str
    at: float


class Releases(msgspec.Struct, frozen=True):
    """By version. `running` is whose code answers, `current` what the next start runs, `previous`
    what it falls back to, `ready` those that this host is known to have been served by.
    `fallback` stands until a release is chosen again."""

    running: str = ""
    current: str = ""
    previous: str = ""
    installed: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    fallback: Fallback | None = None
