"""An access record to play with."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetmesh.model.record import Record
from fleetmesh.model.report import Direction

EXAMPLE = Record(
    time=1_700_000_000.25,
    direction=Direction.OUTBOUND,
    source="web",
    destination="api",
    route="items",
    method="GET",
    path="/items/7",
    status=200,
    reason="",
    sent=210,
    received=1024,
    duration=0.0042,
    first_byte=0.0031,
    endpoint="api1/api-sidecar-proxy",
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    parent_id="",
    sampled=True,
    request_id="7",
)


def record(**changes: Any) -> Record:
    return msgspec.structs.replace(EXAMPLE, **changes)
