"""A TCP connection from its arrival until it is relayed: the destination is being dialled."""

from __future__ import annotations

from fleetmesh.core.table import Lane
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.address import peer_name
from fleetmesh.proxy.conduit import Conduit, Quiet
from fleetmesh.proxy.dial import Failure, dial
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.relay import Relay
from fleetmesh.proxy.site import Site


class TcpArrival(Quiet):
    """Reads nothing until there is somewhere to put it; what TLS has decrypted already waits."""

    __slots__ = ("_early", "_ended", "_relay", "deadline", "peer", "plane", "site", "transport")

    def __init__(self, plane: Plane, site: Site) -> None:
        self.plane = plane
        self.site = site
        self.deadline = float("inf")  # dialling has its own
        self.peer = ""
        self._early: list[bytes] = []
        self._ended = False
        self._relay: Relay | None = None
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
        if lane.pool.full(lane.pool.max_connections):
            plane.refused(site, Refusal.OVERFLOW, self.peer, f"{lane.address}:{lane.port}")
            transport.abort()
            return
        series = plane.telemetry.series(site.direction, site.source, site.destination, site.kind)
        series.begin()
        self._relay = Relay(plane, site, series, self.peer, plane.tcp.idle_timeout)
        self._relay.caller.connection_made(transport)
        plane.connections.add(self)
        transport.pause_reading()
        lane.pool.opening += 1
        plane.spawn(self._dial(lane, self._relay))

    async def _dial(self, lane: Lane, relay: Relay) -> None:
        plane, pool = self.plane, lane.pool
        try:
            lane, outcome = await dial(plane, self.site, lane, lambda _lane: relay.destination)
        finally:
            pool.opening -= 1
            plane.connections.discard(self)
        if isinstance(outcome, Failure):
            if not self.transport.is_closing():
                refusal = outcome.refusal or self.site.failure
                detail = f"{lane.address}:{lane.port}: {outcome.detail}"
                plane.refused(self.site, refusal, self.peer, detail)
                self.transport.abort()
            relay.over()
            return
        if self.transport.is_closing():
            outcome.transport.abort()
            relay.over()
            return
        relay.pool = lane.pool
        relay.pool.lend()
        relay.join(self.transport, outcome.transport)
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
        """Never: see `deadline`."""

    def retire(self, now: float) -> None:
        """What was accepted is served."""

    def recheck(self, now: float) -> None:
        if not self.site.recheck():
            self.plane.cut(self.site, self.peer)
            self.abort()

    def abort(self) -> None:
        self.transport.abort()
