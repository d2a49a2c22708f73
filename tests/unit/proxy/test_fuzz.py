"""Messages cut and mutated at random, through one exchange without sockets: nothing raises, and
what goes on is always one unambiguous message."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from typing import Any

import pytest
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.chunked import ChunkedDecoder, Part
from fleetmesh.core.table import link
from fleetmesh.model.report import Direction
from fleetmesh.proxy.exchange import Exchange
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import OutboundSite
from fleetmesh.proxy.upstream import Upstream
from fleetmesh.settings import HttpSettings, TcpSettings

REQUESTS = (
    b"GET /a?b=c HTTP/1.1\r\nHost: api\r\nAccept: */*\r\nX-Request-Id: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: api\r\nContent-Length: 11\r\n\r\nhello world",
    (
        b"POST /a HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n"
    ),
    b"GET http://other/x HTTP/1.1\r\nHost: api\r\nConnection: close, x-y\r\nX-Y: 1\r\n\r\n",
    b"PUT / HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil close",
    b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframes",
)
SNIPPETS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b"0\r\n\r\n", b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:identity\r\n", b"Host: b\r\n", b"\xff",
    b"HTTP/1.1", b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n", b"-", b"_", b"99999999999999999999",
)  # fmt: skip


class Wire(asyncio.Transport):
    """A transport that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = False
        self.protocol: Any = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The reader is the test: it needs no end."""

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        """Data keeps coming: what a paused reader still gets must not break it."""

    resume_reading = pause_reading


def mutate(chance: random.Random, raw: bytes) -> bytes:
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        at, kind = chance.randrange(len(raw) + 1), chance.randrange(4)
        if kind == 0:
            raw = raw[:at] + chance.choice(SNIPPETS) + raw[at:]
        elif kind == 1:
            raw = raw[:at] + raw[at + chance.randrange(1, 4) :]
        elif kind == 2:
            raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        else:
            raw = raw[:at] + raw[chance.randrange(len(raw) + 1) :]
    return raw


def cut(chance: random.Random, raw: bytes) -> list[bytes]:
    edges = sorted(
        {0, len(raw), *(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(5)))}
    )
    return [raw[begin:end] for begin, end in itertools.pairwise(edges)]


def first_message(raw: bytes) -> bytes:
    """What an upstream that reads by the letter takes for the first message; asserts that there
    is one way to read it."""
    head, end, body = raw.partition(b"\r\n\r\n")
    assert end
    line, *lines = head.split(b"\r\n")
    assert re.fullmatch(rb"[A-Z-]+ [^ \x00-\x20]+ HTTP/1\.1", line), line
    names = []
    for field in lines:
        name, colon, value = field.partition(b":")
        assert colon
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), field
        assert not re.search(rb"[\x00\r\n]", value), field
        names.append(name.lower())
    assert names.count(b"host") == 1
    framing = [name for name in names if name in (b"content-length", b"transfer-encoding")]
    assert len(framing) <= 1
    assert not set(names) & {b"content_length", b"transfer_encoding", b"x-forwarded-client-cert"}
    if framing == [b"content-length"]:
        length = re.search(rb"(?im)^content-length: ([0-9]+)$", head.replace(b"\r\n", b"\n"))
        assert length is not None
        return body[int(length[1]) :]
    if framing:
        decoder = ChunkedDecoder()
        rest = decoder.feed(body, [])
        assert decoder.part is not Part.BROKEN
        return rest
    return body


@pytest.mark.parametrize("seed", range(6))
async def test_random_messages(seed: int) -> None:
    chance = random.Random(seed)
    table = link(
        snapshot(
            Authority(),
            (local_service("web", 1, Authority().leaf("web")),),
            (upstream("api", 1),),
        ),
        1,
        None,
        0,
    )
    plane = Plane(asyncio.get_running_loop(), HttpSettings(), TcpSettings(), table)
    for _ in range(700):
        lane = table.upstreams["api"].default.target.places[0].lane("web", False)
        upstream_wire, client_wire = Wire(), Wire()
        server = Upstream(plane, lane)
        server.connection_made(upstream_wire)
        lane.pool.lend()
        lane.pool.put(server, plane.now)
        client = Exchange(plane, OutboundSite(plane, "web", "api", "http", b"api", False))
        client.connection_made(client_wire)
        for piece in cut(chance, mutate(chance, chance.choice(REQUESTS))):
            client.data_received(piece)
        if upstream_wire.sent:
            assert not client.upgrade or upstream_wire.sent.count(b"Upgrade: ")
            rest = first_message(bytes(upstream_wire.sent))
            assert rest == b"", upstream_wire.sent
            for piece in cut(chance, mutate(chance, chance.choice(RESPONSES))):
                (upstream_wire.protocol or server).data_received(piece)
            (upstream_wire.protocol or server).eof_received()
        if client_wire.sent:
            assert re.match(rb"HTTP/1\.1 [1-5][0-9][0-9] ", client_wire.sent), client_wire.sent
        (client_wire.protocol or client).connection_lost(None)
        (upstream_wire.protocol or server).connection_lost(None)
        assert not plane.connections
        assert lane.pool.active == 0
        for connection in lane.pool.close():
            connection.abort()
        lane.pool.closed = False
    counted = plane.telemetry.report(1, 1, ()).connections
    assert all(one.active == 0 for one in counted if one.direction is Direction.OUTBOUND)
