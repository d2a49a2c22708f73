"""Connections to addresses outside the mesh whose first request may name a service of it."""

from __future__ import annotations

from typing import Protocol

from fleetmesh.core.detect import Kind, detect
from fleetmesh.core.host import named_host
from fleetmesh.plan.names import MeshName, parse
from fleetmesh.proxy.asking import Waiting
from fleetmesh.proxy.conduit import Conduit, Receiver
from fleetmesh.proxy.detect import hand_over
from fleetmesh.proxy.first_bytes import FirstBytes
from fleetmesh.proxy.plane import Plane
from fleetmesh.settings.kinds import SERVICE_NAME

Destination = tuple[str, int]

NO_PORT = 0
"""In place of a destination's port: what goes before it is the key of an upstream."""


class Arrival(Protocol):
    """Whose connection it is."""

    def to(self, key: str, transport: Conduit, destination: Destination) -> Receiver | None:
        """To the upstream; None where there is none."""

    def past(self, transport: Conduit, destination: Destination) -> Receiver | None:
        """Where an unknown destination goes; None where the connection ends here."""


class ByHost(FirstBytes):
    """Reads until the first head is whole, or is no head."""

    __slots__ = ("_arrival", "_destination", "_key")

    def __init__(self, plane: Plane, arrival: Arrival, destination: Destination) -> None:
        super().__init__(plane)
        self._arrival = arrival
        self._destination = destination
        self._key = ""

    def data_received(self, data: bytes) -> None:
        self._data += data
        found = detect(bytes(self._data))
        if found is None:
            return
        end = self._data.find(b"\r\n\r\n", 4)
        if found.kind is not Kind.HTTP or len(self._data) > self._plane.http.max_head_bytes:
            self._decide("")
        elif end >= 0:
            self._decide(named_host(bytes(self._data[:end])))

    def _give_up(self) -> Receiver | None:
        return self._decide("")

    def _decide(self, host: str) -> Receiver | None:
        """A service that is not served yet is asked for, as an address would be."""
        plane, transport = self._plane, self._transport
        self._leave()
        self._key = self._named(host)
        questions = plane.questions
        asked = (self._key, NO_PORT)
        if (
            not self._key
            or self._key in plane.table.upstreams
            or questions is None
            or questions.settled(asked, plane.now)
        ):
            successor = self.settle(transport, asked)
        else:
            successor = Waiting(plane, questions, self, asked)
            hand_over(transport, successor)
        return self._pass_on(successor)

    def settle(self, transport: Conduit, destination: Destination) -> Receiver | None:
        """To the upstream that was asked for, if it is one by now."""
        found = self._arrival.to(self._key, transport, self._destination)
        return found or self._arrival.past(transport, self._destination)

    def _named(self, host: str) -> str:
        """The key of the upstream that a host may be; empty for one that cannot be."""
        datacenter = self._plane.table.snapshot.datacenter
        if SERVICE_NAME.fullmatch(host):
            return MeshName(host).key(datacenter)
        name = parse(tuple(host.split(".")), (datacenter,))
        return "" if name is None else name.key(datacenter)
