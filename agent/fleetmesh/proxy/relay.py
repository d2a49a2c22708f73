"""Opaque TCP in both directions, with half-close and backpressure: tcp services, tunnels and
whatever passes through."""

from __future__ import annotations

import time
from typing import Any

from fleetmesh.core.pool import Pool
from fleetmesh.proxy.conduit import Conduit
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import Series


class End:
    """One side of a relay: what it receives, the other side sends."""

    __slots__ = ("_other", "_relay", "ended", "received", "transport")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._other: End = self
        self.ended = False
        self.received = 0
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    def join(self, other: End) -> None:
        self._other = other
        other._other = self

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._other.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        other = self._other
        if other.ended:
            self.transport.close()
            other.transport.close()
            return False
        if not other.transport.is_closing():
            other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        other = self._other
        if exc is not None or not self.ended:
            other.transport.abort()
        else:
            other.transport.close()
        self._relay.over()

    def pause_writing(self) -> None:
        self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.transport.is_closing():
            self._other.transport.resume_reading()


class Relay:
    """Two joined connections, the caller's and the destination's, until both directions have ended
    or neither has carried a byte for `idle_timeout` seconds. `began` (monotonic
    seconds) is when the caller's connection was accepted, `pool` the one
    that counts the destination's."""

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
        "series",
        "site",
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
        self.caller.join(self.destination)
        self.idle_timeout = idle_timeout
        self.deadline = plane.now + idle_timeout
        self.began = time.monotonic()
        self.pool: Pool[Any] | None = None
        self._moved = 0
        self._over = False

    def join(self, caller: Conduit, destination: Conduit) -> None:
        """Relay from now on between two transports that other protocols had so far."""
        for end, transport in ((self.caller, caller), (self.destination, destination)):
            end.transport = transport
            transport.set_protocol(end)
        self.start()

    def start(self) -> None:
        """Both ends have their transports; the series counts the connection already."""
        self.plane.connections.add(self)

    def over(self) -> None:
        if self._over:
            return
        self._over = True
        self.series.sent += self.caller.received
        self.series.received += self.destination.received
        self.series.end(time.monotonic() - self.began)
        self.plane.connections.discard(self)
        if self.pool is not None:
            self.pool.lost()

    def expire(self, now: float) -> None:
        """Idle for the whole time, or alive after all: asking now spares every read a clock."""
        moved = self.caller.received + self.destination.received
        if moved == self._moved:
            self.abort()
        else:
            self._moved = moved
            self.deadline = now + self.idle_timeout

    def retire(self, now: float) -> None:
        """A stream lives until the drain's own end."""

    def recheck(self, now: float) -> None:
        if not self.site.recheck():
            self.plane.cut(self.site, self.peer)
            self.abort()

    def abort(self) -> None:
        for end in (self.caller, self.destination):
            end.transport.abort()
