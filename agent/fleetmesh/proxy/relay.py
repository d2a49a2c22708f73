"""Opaque TCP in both directions, with half-close and backpressure: tcp services, tunnels and
whatever passes through."""

from __future__ import annotations

import time
from math import inf
from typing import Any

from fleetmesh.core.pool import Pool
from fleetmesh.core.request import RequestHead
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.conduit import Conduit
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import Series


class End:
    """One side of a relay: what it receives, the other side's transport (`out`) sends.

    It knows its relay only as long as that lasts: a circle of the two would keep what TLS has of
    either, half a megabyte at worst, until the collector comes by.
    """

    __slots__ = ("ended", "out", "received", "relay", "transport")

    def __init__(self, relay: Relay) -> None:
        self.relay: Relay | None = relay
        self.ended = False
        self.received = 0
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made
        self.out: Conduit = None  # type: ignore[assignment]  # until the other's connection_made

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport
        if self.relay is not None:
            self.relay.other(self).out = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.out.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        relay = self.relay
        if relay is None or relay.other(self).ended:
            self.transport.close()
            self.out.close()
            return False
        if not self.out.is_closing():
            self.out.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or not self.ended:
            self.out.abort()
        else:
            self.out.close()
        if self.relay is not None:
            self.relay.over()

    def pause_writing(self) -> None:
        self.out.pause_reading()

    def resume_writing(self) -> None:
        if not self.out.is_closing():
            self.out.resume_reading()


class Relay:
    """Two joined connections, the caller's and the destination's, until both directions have ended
    or neither has carried a byte for `idle_timeout` seconds, or it is `until` (monotonic seconds).
    `began` (monotonic seconds) is when
    the caller's connection was accepted, `pool` the one that counts the destination's, `request`
    the one that made a tunnel of it."""

    __slots__ = (
        "_moved",
        "_over",
        "began",
        "caller",
        "deadline",
        "destination",
        "idle_timeout",
        "peer",
        "plane",
        "pool",
        "request",
        "series",
        "site",
        "until",
    )

    def __init__(
        self, plane: Plane, site: Site, series: Series, peer: str, idle_timeout: float
    ) -> None:
        self.plane = plane
        self.site = site
        self.series = series
        self.peer = peer
        self.caller = End(self)
        self.destination = End(self)
        self.idle_timeout = idle_timeout
        self.deadline = plane.now + idle_timeout
        self.until = inf
        self.began = time.monotonic()
        self.pool: Pool[Any] | None = None
        self.request: RequestHead | None = None
        self._moved = 0
        self._over = False

    def end_after(self, seconds: float) -> None:
        """It has so many left."""
        self.until = self.plane.now + seconds
        self.deadline = min(self.deadline, self.until)

    def other(self, end: End) -> End:
        return self.destination if end is self.caller else self.caller

    def join(self, caller: Conduit, destination: Conduit) -> None:
        """Relay from now on between two transports that other protocols had so far."""
        self.caller.connection_made(caller)
        self.destination.connection_made(destination)
        caller.set_protocol(self.caller)
        destination.set_protocol(self.destination)
        self.start()

    def passed(self, from_caller: bytes, from_destination: bytes) -> None:
        """What went through before they were joined."""

    def start(self) -> None:
        """Both ends have their transports; the series counts the connection already."""
        self.plane.connections.add(self)

    def over(self) -> None:
        if self._over:
            return
        self._over = True
        self.caller.relay = self.destination.relay = None
        self.series.sent += self.caller.received
        self.series.received += self.destination.received
        self.series.end(time.monotonic() - self.began)
        self.plane.connections.discard(self)
        if self.pool is not None:
            self.pool.lost()
            if self.request is not None:
                self.pool.tunnels -= 1

    def expire(self, now: float) -> None:
        """Idle for the whole time, or alive after all: asking now spares every read a clock."""
        moved = self.caller.received + self.destination.received
        if self.until <= now:
            self.plane.refused(self.site, Refusal.STREAM_TIMEOUT, self.peer)
            self.abort()
        elif moved == self._moved:
            self.abort()
        else:
            self._moved = moved
            self.deadline = min(now + self.idle_timeout, self.until)

    def retire(self, now: float) -> None:
        """A stream lives until the drain's own end."""

    def recheck(self, now: float) -> None:
        if not self.site.recheck(self.request):
            self.plane.cut(self.site, self.peer, self.request)
            self.abort()

    def part(self) -> None:
        """End it as politely as what it carries allows: of bytes nobody knows."""
        self.abort()

    def abort(self) -> None:
        for end in (self.caller, self.destination):
            end.transport.abort()
