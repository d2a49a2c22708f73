"""TLS streams joined in memory: every byte of the handshake and of the ends is seen."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest
from tests.support.ca import Authority

from fleetmesh.edge.tls import client_context, server_context
from fleetmesh.proxy.stream import TlsStream, TruncatedError


class Pipe(asyncio.Transport):
    """A plain transport whose other end is another's protocol, delivered by `pump`."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[bytes] = []
        self.other: asyncio.Protocol | None = None
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pending.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close


class Application(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.ended = False
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Side:
    def __init__(
        self, context: ssl.SSLContext, *, server: bool, session: ssl.SSLSession | None = None
    ) -> None:
        self.app = Application()
        self.outcomes: list[Exception | None] = []
        self.pipe = Pipe()
        self.stream = TlsStream(context, self._ready, server_side=server, session=session)

    def _ready(self, stream: TlsStream, error: Exception | None) -> None:
        self.outcomes.append(error)
        if error is None:
            stream.set_protocol(self.app)


Connect = Callable[..., tuple[Side, Side]]


def pump(*sides: Side) -> None:
    while any(side.pipe.pending for side in sides):
        for side in sides:
            pending, side.pipe.pending = side.pipe.pending, []
            for data in pending:
                assert side.pipe.other is not None
                side.pipe.other.data_received(data)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    roots = [authority.root]
    return (
        client_context(roots, authority.leaf("web")),
        server_context(roots, authority.leaf("api")),
    )


@pytest.fixture
def connect(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Connect:
    def join(session: ssl.SSLSession | None = None) -> tuple[Side, Side]:
        client, server = (
            Side(contexts[0], server=False, session=session),
            Side(contexts[1], server=True),
        )
        client.pipe.other, server.pipe.other = server.stream, client.stream
        server.stream.connection_made(server.pipe)
        client.stream.connection_made(client.pipe)
        pump(client, server)
        return client, server

    return join


def test_both_sides_become_ready_once(connect: Connect) -> None:
    client, server = connect()
    assert (client.outcomes, server.outcomes) == ([None], [None])
    assert client.stream.tls.version() == "TLSv1.3"
    client.stream.write(b"hello" * 20_000)
    server.stream.write(b"there")
    pump(client, server)
    assert server.app.heard == b"hello" * 20_000
    assert client.app.heard == b"there"


def test_one_direction_may_end_before_the_other(connect: Connect) -> None:
    client, server = connect()
    client.stream.write_eof()
    client.stream.write(b"too late")
    pump(client, server)
    assert server.app.ended
    assert server.app.heard == b""
    server.stream.write(b"x" * 100_000)
    server.stream.write_eof()
    pump(client, server)
    assert client.app.heard == b"x" * 100_000
    assert client.app.ended
    assert not client.app.lost
    assert client.stream.eof_received()


def test_an_end_without_close_notify_is_a_loss(connect: Connect) -> None:
    _, server = connect()
    assert not server.stream.eof_received()
    assert not server.app.ended
    assert [type(error) for error in server.app.lost] == [TruncatedError]
    assert server.pipe.closed
    server.stream.connection_lost(None)
    assert len(server.app.lost) == 1


def test_a_session_is_resumed(connect: Connect) -> None:
    client, server = connect()
    server.stream.write(b"x")
    pump(client, server)
    again, _ = connect(client.stream.tls.session)
    assert again.stream.tls.session_reused
    assert again.stream.tls.getpeercert()["subjectAltName"][0][0] == "URI"  # type: ignore[index]


def test_rubbish_in_the_handshake_is_told_and_answered_with_an_alert(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server = Side(contexts[1], server=True)
    server.stream.connection_made(server.pipe)
    server.stream.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert [type(error) for error in server.outcomes] == [ssl.SSLError]
    assert server.pipe.closed


def test_a_changed_byte_ends_the_connection(connect: Connect) -> None:
    client, server = connect()
    client.stream.write(b"hello")
    (record,) = client.pipe.pending
    server.stream.data_received(record[:-1] + bytes([record[-1] ^ 1]))
    assert server.app.heard == b""
    assert isinstance(server.app.lost[0], ssl.SSLError)
    assert server.pipe.closed


def test_a_handshake_that_takes_too_long_is_told(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server = Side(contexts[1], server=True)
    server.stream.connection_made(server.pipe)
    server.stream.expire(0.0)
    assert [type(error) for error in server.outcomes] == [TimeoutError]
    assert server.pipe.closed
