"""A TCP connection from its arrival until it is relayed: the destination is being dialled."""

from __future__ import annotations

from fleetmesh.core.frames import STREAMS
from fleetmesh.core.lane import Lane
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.address import peer_name
from fleetmesh.proxy.carrier import DialledCarrier, Stream
from fleetmesh.proxy.conduit import Conduit, Quiet
from fleetmesh.proxy.dial import Failure, dial
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.relay import End, Relay
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.stream import TlsStream
from fleetmesh.proxy.turn import with_room


class TcpArrival(Quiet):
    """Reads nothing until there is somewhere to put it; what TLS has decrypted already waits."""

    __slots__ = (
        "_carrier",
        "_early",
        "_ended",
        "_lane",
        "_relay",
        "deadline",
        "peer",
        "plane",
        "site",
        "transport",
    )

    def __init__(self, plane: Plane, site: Site) -> None:
        self.plane = plane
        self.site = site
        self.deadline = float("inf")  # dialling has its own
        self.peer = ""
        self._early: list[bytes] = []
        self._ended = False
        self._relay: Relay | None = None
        self._lane: Lane | None = None
        self._carrier: DialledCarrier | None = None
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport
        self.peer = peer_name(transport)
        plane, site = self.plane, self.site
        lane = site.refusal or site.lane(())
        if isinstance(lane, Refusal):
            plane.refused(site, lane, self.peer)
            transport.abort()
            return
        place = with_room(site, lane, (), stream=True)
        if place is None:
            plane.refused(site, Refusal.OVERFLOW, self.peer, f"{lane.address}:{lane.port}")
            transport.abort()
            return
        lane = place
        series = plane.telemetry.series(site.direction, site.source, site.destination, site.kind)
        series.begin()
        self._relay = Relay(plane, site, series, self.peer, plane.tcp.idle_timeout)
        if seconds := site.stream_timeout():
            self._relay.end_after(seconds)
        self._relay.caller.connection_made(transport)
        plane.connections.add(self)
        transport.pause_reading()
        self._lane = lane
        lane.pool.opening += 1
        carrier = lane.streams.take(plane.now) if plane.tcp.share_connections else None
        if carrier is not None:
            self.deadline = plane.now + lane.connect_timeout
            self._carrier = carrier
            carrier.ask(self)
        else:
            plane.spawn(self._dial(lane, self._relay))

    def carried(self, stream: Stream) -> None:
        """The peer has agreed on a connection that was there already."""
        self.plane.connections.discard(self)
        self._carrier = None
        if self._relay is not None and self._lane is not None:
            self._lane.pool.dialled()
            self._join(self._relay, self._lane, stream)

    def not_carried(self) -> None:
        self.deadline = float("inf")
        self._carrier = None
        relay, lane = self._relay, self._lane
        if relay is None or lane is None:
            return
        if self.transport.is_closing():
            lane.pool.dialled()
        else:
            self.plane.spawn(self._dial(lane, relay))

    async def _dial(self, lane: Lane, relay: Relay) -> None:
        plane, pool = self.plane, lane.pool

        def made(lane: Lane) -> DialledCarrier | End:
            return DialledCarrier(plane, lane) if lane.expected else relay.destination

        try:
            lane, outcome = await dial(
                plane, self.site, lane, made, streams=plane.tcp.share_connections
            )
        finally:
            pool.dialled()
            plane.connections.discard(self)
        if isinstance(outcome, Failure):
            if not self.transport.is_closing():
                refusal = outcome.refusal or self.site.failure
                detail = f"{lane.address}:{lane.port}: {outcome.detail}"
                plane.refused(self.site, refusal, self.peer, detail)
                self.transport.abort()
            relay.over()
            return
        destination = outcome.transport
        if isinstance(outcome, DialledCarrier):
            assert isinstance(destination, TlsStream)
            if destination.agreed == STREAMS:
                self._join(relay, lane, outcome.first())
                return
        self._join(relay, lane, destination)

    def _join(self, relay: Relay, lane: Lane, destination: Conduit) -> None:
        if self.transport.is_closing():
            destination.abort()
            relay.over()
            return
        if lane.standing is not None:
            lane.standing.reached(self.plane.now)
        relay.pool = lane.pool
        relay.pool.lend()
        relay.join(self.transport, destination)
        for data in self._early:
            relay.caller.data_received(data)
        if self._ended:
            relay.caller.eof_received()
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def eof_received(self) -> bool:
        self._ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.plane.connections.discard(self)
        if self._relay is not None:
            self._relay.over()

    def expire(self, now: float) -> None:
        """A kept connection does not answer; a new one may."""
        if self._carrier is not None:
            self._carrier.abort()

    def retire(self, now: float) -> None:
        """What was accepted is served."""

    def recheck(self, now: float) -> None:
        if not self.site.recheck():
            self.plane.cut(self.site, self.peer)
            self.abort()

    def abort(self) -> None:
        self.transport.abort()
