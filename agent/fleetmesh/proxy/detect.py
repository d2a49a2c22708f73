"""Which protocol takes a connection over: the declared one at once, else the one that its first
bytes show."""

from __future__ import annotations

import asyncio

from fleetmesh.core.detect import SERVER_FIRST_PORTS, Detected, Kind, detect, settle
from fleetmesh.model.report import Direction
from fleetmesh.model.traffic import Protocol
from fleetmesh.proxy.address import peer_name
from fleetmesh.proxy.conduit import Conduit, Quiet, Receiver
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.recorded import exchange
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.tcp import TcpArrival


def hand_over(transport: Conduit, protocol: Receiver) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)


def serve(plane: Plane, transport: Conduit, site: Site, protocol: Protocol, port: int) -> Receiver:
    """Let a connection of `site` be served as `protocol`, by whom is returned. `port` is where the
    application listens: on some the server speaks first, and nothing would come to find it out
    from."""
    receiver: Receiver
    if protocol is Protocol.HTTP:
        receiver = exchange(plane, site)
    elif protocol is Protocol.AUTO and port not in SERVER_FIRST_PORTS:
        receiver = Detecting(plane, site)
    else:
        receiver = TcpArrival(plane, site)
    hand_over(transport, receiver)
    return receiver


class Detecting(Quiet):
    """Reads until the protocol is known, or for `tcp.detect_timeout`; what was read goes to the
    protocol that takes over, once."""

    __slots__ = ("_data", "_plane", "_site", "_timer", "_transport", "deadline")

    def __init__(self, plane: Plane, site: Site) -> None:
        self._plane = plane
        self._site = site
        self._data = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        # The sweep is too coarse: every connection of a server that speaks first waits this out.
        self.deadline = float("inf")
        self._transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    def connection_made(self, transport: Conduit) -> None:
        plane = self._plane
        self._transport = transport
        self._timer = plane.loop.call_later(plane.tcp.detect_timeout, self._silent)
        plane.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        found = detect(bytes(self._data))
        if found is not None:
            self._take_over(found)

    def eof_received(self) -> bool:
        """A client that only listens is served, too."""
        return self._settle().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _silent(self) -> None:
        if not self._transport.is_closing():
            self._settle()

    def _settle(self) -> Receiver:
        return self._take_over(settle(bytes(self._data)))

    def _take_over(self, found: Detected) -> Receiver:
        plane, site, transport = self._plane, self._site, self._transport
        self._leave()
        site.detected = True
        site.sni = found.sni
        if site.direction is not Direction.PLAIN:  # whose kind says that it is permissive
            site.kind = found.kind.value
            site.recheck()
        plane.detected(site, peer_name(transport))
        http = found.kind is Kind.HTTP
        successor: Receiver = exchange(plane, site) if http else TcpArrival(plane, site)
        hand_over(transport, successor)
        if self._data:
            successor.data_received(bytes(self._data))
        return successor

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._plane.connections.discard(self)

    # What the worker asks of every connection.

    def expire(self, now: float) -> None:
        """Never: see `deadline`."""

    def retire(self, now: float) -> None:
        """What was accepted is served."""

    def recheck(self, now: float) -> None:
        """Whoever takes over refuses what is now forbidden, in a way that the client reads."""
        self._site.recheck()

    def abort(self) -> None:
        self._transport.abort()
