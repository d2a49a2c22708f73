"""Faults that an operator injects: what requests of this host suffer on purpose."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from fleetmesh.model.traffic import FieldMatch

HEADER = "x-fleetmesh-fault"
"""On every answer that a fault had a part in: its kind and id."""
ALL = "*"
"""In a permission: whoever calls."""


class FaultKind(enum.StrEnum):
    DELAY = "delay"
    ABORT = "abort"


class Fault(msgspec.Struct, frozen=True):
    """Requests of the local services `callers` to the upstream `service` that have all `headers`
    wait `delay` seconds before they are sent, or get the status `abort` instead of an answer:
    `share` of them, in hundredths of a percent. Exactly one of the two is not 0.

    It ends at `until`, in seconds of CLOCK_MONOTONIC, which every process of a host shares. `since`
    is wall time in seconds, `by` who injected it.
    """

    id: str
    service: str
    callers: tuple[str, ...]
    share: int
    delay: float = 0.0
    abort: int = 0
    headers: tuple[FieldMatch, ...] = ()
    until: float = 0.0
    since: float = 0.0
    by: str = ""
    why: str = ""

    @property
    def kind(self) -> FaultKind:
        return FaultKind.DELAY if self.delay else FaultKind.ABORT


class Permission(msgspec.Struct, frozen=True):
    """The `callers` whose requests to `service` its owner allows to be made to fail."""

    service: str
    callers: tuple[str, ...] = ()

    def among(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(one for one in names if ALL in self.callers or one in self.callers))


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault as it is asked for. `percent` of the requests, for so many `seconds`; a header whose
    value is None is only to be there. Without a `source` it is all callers that may suffer it."""

    service: str
    percent: float
    delay: float = 0.0
    abort: int = 0
    headers: tuple[tuple[str, str | None], ...] = ()
    source: str = ""
    seconds: float = 600.0
    why: str = ""
