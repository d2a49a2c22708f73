"""Which protocol takes a connection over: the declared one at once, else the one that its first
bytes show."""

from __future__ import annotations

from fleetmesh.core.detect import SERVER_FIRST_PORTS, Detected, Kind, detect, settle
from fleetmesh.model.report import Direction
from fleetmesh.model.traffic import Protocol
from fleetmesh.proxy.address import peer_name
from fleetmesh.proxy.conduit import Conduit, Receiver
from fleetmesh.proxy.first_bytes import FirstBytes
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


class Detecting(FirstBytes):
    """Reads until the protocol is known."""

    __slots__ = ("_site",)

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane)
        self._site = site

    def data_received(self, data: bytes) -> None:
        self._data += data
        found = detect(bytes(self._data))
        if found is not None:
            self._take_over(found)

    def _give_up(self) -> Receiver | None:
        return self._take_over(settle(bytes(self._data)))

    def _take_over(self, found: Detected) -> Receiver | None:
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
        return self._pass_on(successor)

    def recheck(self, now: float) -> None:
        """Whoever takes over refuses what is now forbidden, in a way that the client reads."""
        self._site.recheck()
