"""One request as a worker remembers it: an access record."""

from __future__ import annotations

from typing import Final

import msgspec

from fleetmesh.model.report import Direction

MAX_PATH: Final = 1024  # bytes of a path that are kept


class Record(msgspec.Struct, frozen=True):
    """`time` is when the request's first byte came, in seconds since the epoch; `duration` is until
    the end of the exchange and `first_byte` until the answer's head, in seconds, None when there
    was no answer of the endpoint's.

    `status` is what the caller saw, 499 when it left before; `reason` is Refusal.code where the
    mesh ended the request. `path` is without the query string unless the settings keep it.
    `sent` and `received` are bytes towards the endpoint and from it, heads included; `attempts` how
    many times the request was sent, `endpoint` the id of the last that it went to. The ids are
    hexadecimal text, empty where there is none; `span_id` is the one that this hop told the next.
    """

    time: float
    direction: Direction
    source: str
    destination: str
    route: str
    method: str
    path: str
    status: int
    reason: str
    sent: int
    received: int
    duration: float
    first_byte: float | None
    endpoint: str
    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool
    request_id: str
    attempts: int = 1


def printable(value: bytes) -> str:
    """Fit for a terminal and for a line of the journal, whatever the client sent."""
    text = value.decode("ascii", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
