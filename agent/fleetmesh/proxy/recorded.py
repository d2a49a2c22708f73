"""An exchange that leaves an access record of every request.

Where the access log is off there are none of these, and nothing on the way asks whether it is.
"""

from __future__ import annotations

import time
from typing import Final

from fleetmesh.core.lane import Lane
from fleetmesh.core.trace import Tracing
from fleetmesh.model.record import MAX_PATH, Record, printable
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.access import AccessLog
from fleetmesh.proxy.exchange import Exchange
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import Tally
from fleetmesh.proxy.upstream import Upstream

MAX_ID: Final = 128


class Recorder(Tally):
    """Counts the bytes of one exchange at a time, in place of the series that it tells of them."""

    __slots__ = ("_exchange", "_told_received", "_told_sent")

    def __init__(self, exchange: RecordedExchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._told_sent = 0
        self._told_received = 0

    def answered(self, route: str, status: int, started: float) -> None:
        exchange = self._exchange
        exchange.series.answered(route, status, started)
        exchange.record(route, status, self.sent, self.received)
        self.fold()
        self.sent = self.received = self._told_sent = self._told_received = 0

    def fold(self) -> None:
        series = self._exchange.series
        series.sent += self.sent - self._told_sent
        series.received += self.received - self._told_received
        self._told_sent = self.sent
        self._told_received = self.received


class RecordedExchange(Exchange):
    """`_asked` is the target as the caller named it, `_reason` why the mesh ended the request,
    `_first_byte` when the answer's head came (monotonic seconds, 0.0: it did not), `_endpoint` the
    id of the last that was tried."""

    __slots__ = ("_asked", "_endpoint", "_first_byte", "_log", "_reason")

    def __init__(self, plane: Plane, site: Site, log: AccessLog) -> None:
        super().__init__(plane, site)
        self._log = log
        self._asked = b""
        self._endpoint = ""
        self._first_byte = 0.0
        self._reason = ""
        self.tally = Recorder(self)
        plane.telemetry.tallies.add(self.tally)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def tunnel(self, upstream: Upstream, head: bytes, rest: bytes) -> None:
        super().tunnel(upstream, head, rest)
        self._stop()

    def _stop(self) -> None:
        self.tally.fold()
        self.plane.telemetry.tallies.discard(self.tally)
        self.tally = self.series

    def begin(self) -> None:
        self._asked = self.target
        super().begin()
        if self._upstream is not None:
            self._endpoint = self._upstream.lane.endpoint_id

    def reached(self, lane: Lane) -> None:
        self._endpoint = lane.endpoint_id

    def answer_begins(self, upstream: Upstream) -> bytes:
        self._first_byte = time.monotonic()
        self._endpoint = upstream.lane.endpoint_id
        return super().answer_begins(upstream)

    def refuse(self, refusal: Refusal, detail: str = "") -> None:
        self._reason = refusal.code
        super().refuse(refusal, detail)

    def upstream_lost(self, upstream: Upstream, refusal: Refusal, detail: str) -> None:
        self._endpoint = upstream.lane.endpoint_id
        if self.response_begun:
            self._reason = refusal.code
        super().upstream_lost(upstream, refusal, detail)

    def record(self, route: str, status: int, sent: int, received: int) -> None:
        """The exchange is over; remember it, and nothing of it."""
        site = self.site
        duration = time.monotonic() - self.started
        marks = self.marks if isinstance(self.plane.marker, Tracing) else b""
        path = self._asked or self.target
        if not self._log.query:
            path = path.partition(b"?")[0]
        # `traceparent: 00-<trace id>-<span id>-<flags>`: the lines that Tracing gives begin so.
        trace_id = marks[16:48]
        # Of a caller whose trace is continued.
        parent = self.traceparent if self.traceparent[3:35] == trace_id else b""
        self._log.add(
            Record(
                time.time() - duration,
                site.direction,
                site.source,
                site.destination,
                route,
                printable(self.method),
                printable(path[:MAX_PATH]),
                status,
                self._reason,
                sent,
                received,
                duration,
                self._first_byte - self.started if self._first_byte else None,
                self._endpoint,
                printable(trace_id),
                printable(marks[49:65]),
                printable(parent[36:52]),
                marks[66:68] in (b"01", b"03"),
                printable(self.request_id[:MAX_ID]),
                len(self._tried) + 1,
            )
        )
        self._endpoint = self._reason = ""
        self._first_byte = 0.0
        self.marks = self._asked = b""


def exchange(plane: Plane, site: Site) -> Exchange:
    """What serves a connection of `site` that speaks HTTP."""
    log = plane.access
    return Exchange(plane, site) if log is None else RecordedExchange(plane, site, log)
