"""Accepted connections: who called, whom they wanted, and the protocol that takes over."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

from fleetmesh.core.detect import SERVER_FIRST_PORTS
from fleetmesh.core.entry import UpstreamEntry
from fleetmesh.core.frames import STREAMS
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Mode
from fleetmesh.model.traffic import Protocol
from fleetmesh.proxy.address import original_destination, peer_name
from fleetmesh.proxy.asking import Waiting
from fleetmesh.proxy.by_host import ByHost
from fleetmesh.proxy.carrier import AcceptedCarrier
from fleetmesh.proxy.conduit import Conduit, Quiet, Receiver
from fleetmesh.proxy.detect import hand_over, serve
from fleetmesh.proxy.dial import peer_uri
from fleetmesh.proxy.plane import HANDSHAKE_TIMEOUT, Plane
from fleetmesh.proxy.site import (
    ExposedSite,
    InboundSite,
    OutboundSite,
    PassthroughSite,
    PlainSite,
    Site,
)
from fleetmesh.proxy.stream import TlsStream
from fleetmesh.proxy.tcp import TcpArrival


class OutboundArrival(Quiet):
    """A connection of the local service `service`. `upstream` names where it goes when there is
    no capture to ask, as in a test or a bug report; else it is empty."""

    __slots__ = ("_plane", "_service", "_upstream")

    def __init__(self, plane: Plane, service: str, upstream: str) -> None:
        self._plane = plane
        self._service = service
        self._upstream = upstream

    def connection_made(self, transport: Conduit) -> None:
        plane = self._plane
        if self._upstream:
            entry = plane.table.upstreams.get(self._upstream)
            ports = {port for _, port in entry.upstream.destinations} if entry else set()
            port = ports.pop() if len(ports) == 1 else 0
            self._to(transport, entry, self._upstream, False, port)
            return
        destination = original_destination(transport)
        if destination is None:
            site = Site(plane, Direction.OUTBOUND, self._service, "", "tcp")
            plane.refused(site, Refusal.NOT_CAPTURED, peer_name(transport))
            transport.abort()
            return
        questions = plane.questions
        if (
            questions is None
            or plane.table.owner(destination) is not None
            or questions.settled(destination, plane.now)
        ):
            self.settle(transport, destination)
        else:
            hand_over(transport, Waiting(plane, questions, self, destination))

    def settle(self, transport: Conduit, destination: tuple[str, int]) -> Receiver | None:
        """To the upstream that has `destination`, or that the first request names where that is
        wanted; where none has it, past the mesh, or nowhere: None then."""
        plane = self._plane
        entry = plane.table.owner(destination)
        if entry is not None:
            return self._to_entry(transport, entry, destination)
        if plane.http.route_by_host and destination[1] not in SERVER_FIRST_PORTS:
            hearing = ByHost(plane, self, destination)
            hand_over(transport, hearing)
            return hearing
        return self.past(transport, destination)

    def to(self, key: str, transport: Conduit, destination: tuple[str, int]) -> Receiver | None:
        """To the upstream of that key; None where there is none."""
        entry = self._plane.table.upstreams.get(key)
        return None if entry is None else self._to_entry(transport, entry, destination)

    def past(self, transport: Conduit, destination: tuple[str, int]) -> Receiver | None:
        """Past the mesh, or nowhere: None then."""
        plane = self._plane
        address, port = destination
        site = PassthroughSite(plane, self._service, address, port)
        site.destination = plane.table.outsiders.get(destination, "")
        refusal = plane.table.closed(destination)
        if refusal is not None:
            plane.refused(site, refusal, peer_name(transport), f"to {address} port {port}")
            transport.abort()
            return None
        passing = TcpArrival(plane, site)
        hand_over(transport, passing)
        return passing

    def _to_entry(
        self, transport: Conduit, entry: UpstreamEntry, destination: tuple[str, int]
    ) -> Receiver:
        address, port = destination
        ipv6 = ":" in address
        host = f"[{address}]:{port}" if ipv6 else f"{address}:{port}"
        return self._to(transport, entry, host, ipv6, port)

    def _to(
        self, transport: Conduit, entry: UpstreamEntry | None, host: str, ipv6: bool, port: int
    ) -> Receiver:
        """`port` is the one that the application listens on, 0 if nothing tells."""
        protocol = entry.upstream.protocol if entry is not None else Protocol.TCP
        site = OutboundSite(
            self._plane,
            self._service,
            entry.upstream.service if entry is not None else host,
            "http" if protocol is Protocol.HTTP else "tcp",
            host.encode(),
            ipv6,
            peer_name(transport).rpartition(":")[0].encode(),
        )
        return serve(self._plane, transport, site, protocol, port)


class InboundArrival(Quiet):
    """A connection to the sidecar port of the local service `service`."""

    __slots__ = ("_plane", "_service")

    def __init__(self, plane: Plane, service: str) -> None:
        self._plane = plane
        self._service = service

    def connection_made(self, transport: Conduit) -> None:
        plane = self._plane
        identity = plane.identities.get(self._service)
        if identity is None:
            self._refuse(transport, Refusal.NO_IDENTITY, "")
            transport.abort()
            return
        stream = TlsStream(
            identity.server,
            self._on_ready,
            server_side=True,
            deadline=plane.now + HANDSHAKE_TIMEOUT,
        )
        plane.connections.add(stream)
        hand_over(transport, stream)

    def _on_ready(self, stream: TlsStream, error: Exception | None) -> None:
        self._plane.connections.discard(stream)
        if error is None:
            self._greet(stream)
        elif isinstance(error, ssl.SSLError):
            self._refuse(stream.transport, _tls_refusal(error), str(error))

    def _greet(self, stream: TlsStream) -> None:
        """The chain is good."""
        if stream.agreed == STREAMS:
            carrier = AcceptedCarrier(self._plane, _Accept(self, stream))
            hand_over(stream, carrier)
        else:
            self.admit(stream, stream)

    def admit(self, stream: TlsStream, conduit: Conduit) -> None:
        """Whose is the certificate of `stream`, and what becomes of `conduit`, which it carries?"""
        plane = self._plane
        uri = peer_uri(stream)
        source = SpiffeId.parse(uri)
        entry = plane.table.services.get(self._service)
        if source is None or entry is None:
            self._refuse(stream, Refusal.UNTRUSTED_PEER, f"not a service: {uri or 'no URI'}")
            conduit.abort()
            return
        protocol = entry.service.protocol
        kind = "http" if protocol is Protocol.HTTP else "tcp"
        site = InboundSite(plane, source.service, self._service, kind, source.trust_domain)
        site.identity = str(source)
        if site.refusal is Refusal.UNTRUSTED_PEER:
            self._refuse(stream, Refusal.UNTRUSTED_PEER, f"of another trust domain: {uri}")
            conduit.abort()
            return
        if protocol is not Protocol.TCP:
            site.added = _forwarded_client_cert(stream, entry.spiffe_id, uri)
        serve(plane, conduit, site, protocol, entry.service.port)

    def _refuse(self, transport: Conduit, refusal: Refusal, detail: str) -> None:
        site = Site(self._plane, Direction.INBOUND, "", self._service, "tcp")
        self._plane.refused(site, refusal, peer_name(transport), detail)


class _Accept:
    """Every stream that a connection carries is admitted by itself."""

    __slots__ = ("_arrival", "_stream")

    def __init__(self, arrival: InboundArrival, stream: TlsStream) -> None:
        self._arrival = arrival
        self._stream = stream

    def __call__(self, conduit: Conduit) -> None:
        self._arrival.admit(self._stream, conduit)


class PlainArrival(Quiet):
    """A connection to an application's own port, redirected before it got there."""

    __slots__ = ("_plane",)

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def connection_made(self, transport: Conduit) -> None:
        plane = self._plane
        destination = original_destination(transport)
        entry = plane.table.by_port.get(destination[1]) if destination is not None else None
        if entry is None:
            site = Site(plane, Direction.PLAIN, "", "", "permissive")
            plane.refused(site, Refusal.NOT_CAPTURED, peer_name(transport))
            transport.abort()
            return
        service = entry.service
        site = PlainSite(plane, service.name)
        if service.mode is Mode.PERMISSIVE:
            plane.admitted(site, peer_name(transport))
        # An http service gets heads that were judged, so that nobody without a certificate can
        # tell its application of one.
        serve(plane, transport, site, service.protocol, service.port)


class ExposedArrival(Quiet):
    """A connection to a port on which services of this host expose something."""

    __slots__ = ("_plane",)

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def connection_made(self, transport: Conduit) -> None:
        plane = self._plane
        own = transport.get_extra_info("sockname")
        peer = transport.get_extra_info("peername")
        port = own[1] if own else 0
        site = ExposedSite(plane, port, bool(own and peer and own[0] == peer[0]))
        serve(plane, transport, site, Protocol.HTTP, port)


def _tls_refusal(error: ssl.SSLError) -> Refusal:
    reason = error.reason or ""
    if reason in (
        "HTTP_REQUEST",
        "WRONG_VERSION_NUMBER",
        "UNKNOWN_PROTOCOL",
        "HTTPS_PROXY_REQUEST",
    ):
        return Refusal.PLAINTEXT
    return Refusal.UNTRUSTED_PEER


def _forwarded_client_cert(stream: TlsStream, own: str, uri: str) -> bytes:
    """The field line of Envoy's X-Forwarded-Client-Cert, with its keys in its order."""
    der = stream.tls.getpeercert(binary_form=True) or b""
    subject: Any = (stream.tls.getpeercert() or {}).get("subject", ())
    names = ",".join(
        f"{_SHORT.get(kind, kind)}={value}" for part in reversed(subject) for kind, value in part
    )
    quoted = names.replace("\\", "\\\\").replace('"', '\\"')
    digest = hashlib.sha256(der).hexdigest()
    line = f'X-Forwarded-Client-Cert: By={own};Hash={digest};Subject="{quoted}";URI={uri}\r\n'
    return line.encode("ascii", "backslashreplace")


_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}
