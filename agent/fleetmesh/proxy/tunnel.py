"""A WebSocket through a worker that goes away: both ends are told so, where a frame may be put in,
and not just cut off."""

from __future__ import annotations

from fleetmesh.core.websocket import GOING_AWAY, GOING_AWAY_MASKED, FrameBoundary
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.relay import End, Relay
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import Series


class FramedEnd(End):
    """Knows where the frames end that it passes on."""

    __slots__ = ("_boundary", "_goodbye")

    def __init__(self, relay: Relay, goodbye: bytes) -> None:
        super().__init__(relay)
        self._boundary = FrameBoundary()
        self._goodbye = goodbye

    def data_received(self, data: bytes) -> None:
        self._boundary.feed(data)
        super().data_received(data)

    def passed(self, data: bytes) -> None:
        self._boundary.feed(data)

    def part(self) -> None:
        """The last that the other side hears."""
        if self._boundary.here() and not self.ended and not self.out.is_closing():
            self.out.write(self._goodbye)
            self.out.close()
        else:
            self.out.abort()


class WebSocketRelay(Relay):
    """From the 101 on."""

    __slots__ = ("_from_caller", "_from_destination")

    def __init__(
        self, plane: Plane, site: Site, series: Series, peer: str, idle_timeout: float
    ) -> None:
        super().__init__(plane, site, series, peer, idle_timeout)
        self._from_caller = FramedEnd(self, GOING_AWAY_MASKED)
        self._from_destination = FramedEnd(self, GOING_AWAY)
        self.caller = self._from_caller
        self.destination = self._from_destination

    def passed(self, from_caller: bytes, from_destination: bytes) -> None:
        self._from_caller.passed(from_caller)
        self._from_destination.passed(from_destination)

    def part(self) -> None:
        self._from_caller.part()
        self._from_destination.part()

    def abort(self) -> None:
        if self.plane.draining:
            self.part()
        else:
            super().abort()
