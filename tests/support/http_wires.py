"""One client's connection through the relay path, without sockets and without a running loop.

Transports are lists of bytes that obey what the path asks of them: paused, they deliver nothing;
closed, they deliver the end. A dial never returns; connections to the endpoint are in the pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

from tests.support.ca import Authority
from tests.support.http_reader import End, read_requests
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.table import link
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.proxy.exchange import Exchange
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import OutboundSite
from fleetmesh.proxy.upstream import Upstream
from fleetmesh.settings import HttpSettings, TcpSettings

DEFAULT_HOST = b"api"
DEFAULT_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SPARE = 4  # connections in the pool


class Still(asyncio.AbstractEventLoop):
    """A loop in which no time passes: what is spawned never runs."""

    def create_task(self, coro: Any, **_: Any) -> Any:
        coroutine: Coroutine[Any, Any, None] = coro
        coroutine.close()
        return _Never()

    def call_later(self, *_: Any, **__: Any) -> Any:
        """No sweep: nothing expires."""


class _Never:
    def add_done_callback(self, callback: Callable[..., object]) -> None:
        """It is never done."""


class Wire(asyncio.Transport):
    """`sent` is what the mesh wrote, `inbox` what it has yet to read."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.inbox: deque[bytes] = deque()
        self.closed = self.aborted = self.ended = self.paused = self.lost = False
        self.peer_ends = False
        self.protocol: Any = None
        self.read = 0  # how much of `sent` is whole requests
        self.begun = self.waiting = False  # a request's head is here; it has no answer yet
        self.tunnel = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "bytes behind the end"
        if not self.closed:
            self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def deliver(self) -> bool:
        """One piece, or one end, to the protocol; False when there was nothing to do."""
        if self.lost:
            return False
        if self.closed:
            self.lost = True
            self.protocol.connection_lost(None)
        elif self.inbox and not self.paused:
            self.protocol.data_received(self.inbox.popleft())
        elif self.peer_ends and not self.inbox and not self.paused:
            self.peer_ends = False
            if not self.protocol.eof_received():
                self.close()
        else:
            return False
        return True


@cache
def _snapshot() -> Snapshot:
    authority = Authority()
    return snapshot(
        authority, (local_service("web", 1, authority.leaf("web")),), (upstream("api", 1),)
    )


class Answer:
    """The pieces in which an endpoint's answer comes; `closes`: the connection then ends.
    `early`: it does not wait for the request's end. One that is `legal` must not be refused."""

    def __init__(
        self, *pieces: bytes, closes: bool = False, early: bool = False, legal: bool = True
    ) -> None:
        self.pieces = pieces
        self.closes = closes
        self.early = early
        self.legal = legal

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)


class Wires:
    """`client` is the client's wire, `used` those of the endpoint in the order of their use,
    `answers` what the endpoint said, one for each request that reached it."""

    def __init__(self, script: list[Answer], http: HttpSettings | None = None) -> None:
        self.table = link(_snapshot(), 1, None, 0)
        self.plane = Plane(Still(), http or HttpSettings(), TcpSettings(), self.table)
        self.lane = self.table.upstreams["api"].default.target.places[0].lane("web", False)
        self.script = deque(script)
        self.answers: list[Answer] = []
        self._spare = [self._connected() for _ in range(SPARE)]
        self.used: list[Wire] = []
        self.client = Wire()
        site = OutboundSite(self.plane, "web", "api", "http", DEFAULT_HOST, False)
        self.client.protocol = Exchange(self.plane, site)
        self.client.protocol.connection_made(self.client)

    def _connected(self) -> Wire:
        wire = Wire()
        wire.protocol = Upstream(self.plane, self.lane)
        wire.protocol.connection_made(wire)
        self.lane.pool.lend()
        self.lane.pool.put(wire.protocol, self.plane.now)
        return wire

    def send(self, *pieces: bytes, ends: bool = False) -> None:
        for piece in pieces:
            self.client.inbox.append(piece)
            self.settle()
        self.client.peer_ends = ends
        self.settle()

    def settle(self) -> None:
        """Until nobody has anything to do: a bounded number of steps, or the path is astray."""
        for _ in range(10_000):
            if not (self.client.deliver() or self._serve()):
                return
        raise AssertionError("the path never comes to rest")

    def _serve(self) -> bool:
        moved = False
        for wire in self._spare:
            if wire.sent and wire not in self.used:
                self.used.append(wire)
            moved |= wire.deliver()
            if not wire.closed and not wire.tunnel and len(wire.sent) > wire.read:
                moved |= self._answer(wire)
        return moved

    def _answer(self, wire: Wire) -> bool:
        reading = read_requests(bytes(wire.sent[wire.read :]), most=1, empty_lines=False)
        if reading.end not in (End.CLEAN, End.PARTIAL_BODY):
            wire.read = len(wire.sent)  # nobody answers what nobody understands
            return False
        if not wire.begun:
            wire.begun = wire.waiting = True
        whole = reading.end is End.CLEAN
        if whole:
            wire.read = len(wire.sent) - len(reading.rest)
            wire.begun = False
        answer = self.script[0] if self.script else Answer(DEFAULT_ANSWER)
        if wire.waiting and (whole or answer.early):
            wire.waiting = False
            if self.script:
                self.script.popleft()
            self.answers.append(answer)
            wire.tunnel = answer.raw.startswith(b"HTTP/1.1 101")
            wire.inbox.extend(answer.pieces)
            wire.peer_ends = answer.closes
            return True
        return whole

    def close(self) -> None:
        """The client goes away: nothing may be left of the exchange."""
        for wire in (self.client, *self._spare):
            wire.closed = True
        self.settle()
        assert not self.plane.connections
        assert self.lane.pool.active == 0
        counted = self.plane.telemetry.report(1, 1, ()).connections
        assert all(one.active == 0 for one in counted if one.direction is Direction.OUTBOUND)
