"""HTTP/1.1 through an outbound and an inbound worker, as a client sees it byte by byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import websockets
from tests.support.app import Scripted
from tests.support.mesh import Mesh, mesh_to

from fleetmesh.edge.ipc import Part

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Client:
    """Raw bytes out, parsed answers in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(5):
            raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = raw[:-4].split("\r\n")
        fields = {key.lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        return int(line.split(" ")[1]), fields

    async def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, fields, content; of a chunked answer the trailers join the fields."""
        async with asyncio.timeout(10):
            status, fields = await self.head()
            if method == "HEAD" or status in (204, 304) or status < 200:
                return status, fields, b""
            if "content-length" in fields:
                content = await self.reader.readexactly(int(fields["content-length"]))
            elif fields.get("transfer-encoding") == "chunked":
                content = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    content += (await self.reader.readexactly(size + 2))[:-2]
                while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    key, _, value = line.decode().partition(":")
                    fields["trailer:" + key.lower()] = value.strip()
            else:
                content = await self.reader.read()
            return status, fields, content

    async def get(self, target: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
        self.send("GET", target, *lines)
        return await self.answer()

    def send(self, method: str, target: str, *lines: str, body: bytes = b"") -> None:
        head = "".join(
            f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "Host: api", *lines)
        )
        self.writer.write(head.encode("latin-1") + b"\r\n" + body)

    async def ended(self) -> bool:
        """Whether the connection ends, with nothing more on it."""
        try:
            async with asyncio.timeout(4):
                return await self.reader.read() == b""
        except ConnectionError:
            return True


@pytest_asyncio.fixture(loop_scope="module")
async def client(meshed: Mesh) -> Client:
    return Client(*await meshed.call())


def said(content: bytes) -> dict[str, Any]:
    heard: dict[str, Any] = json.loads(content)
    heard["by_name"] = {key.lower(): value for key, value in heard["fields"]}
    return heard


async def test_connections_are_kept_on_both_sides(meshed: Mesh, app: Scripted) -> None:
    """Twenty requests of one client need one connection to the application."""
    client = Client(*await meshed.call())
    assert (await client.get("/any"))[0] == 200
    before = app.connections
    for _ in range(20):
        assert (await client.get("/any"))[0] == 200
    assert app.connections == before


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    for number in range(30):
        client.send("POST", f"/any?{number}", "Content-Length: 3", body=b"abc")
        client.send(
            "POST", f"/any?{number}c", "Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\n\r\n"
        )
    for number in range(30):
        heard = said((await client.answer())[2])
        assert (heard["target"], heard["length"]) == (f"/any?{number}", 3)
        heard = said((await client.answer())[2])
        assert (heard["target"], heard["length"]) == (f"/any?{number}c", 1)


async def test_a_message_cut_anywhere_means_the_same(meshed: Mesh) -> None:
    raw = (
        b"POST /any?x HTTP/1.1\r\nHost: api\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n"
        b"GET /any?second HTTP/1.1\r\nHost: api\r\n\r\n"
    )
    for step in (1, 2, 3, 7):
        client = Client(*await meshed.call())
        for at in range(0, len(raw), step):
            client.writer.write(raw[at : at + step])
            await asyncio.sleep(0)
        first = said((await client.answer())[2])
        assert first["sha256"] == hashlib.sha256(b"hello0123456789").hexdigest()
        assert said((await client.answer())[2])["target"] == "/any?second"


async def test_chunked_answers_lose_extensions_and_unasked_trailers(client: Client) -> None:
    status, fields, content = await client.get("/chunked")
    assert (status, content) == (200, b"hello world")
    assert not any(name.startswith("trailer") for name in fields)
    assert not fields.keys() & {"x-hop", "keep-alive", "connection"}


async def test_trailers_come_to_who_asks(client: Client) -> None:
    """But never one that would change the message: the Content-Length is gone."""
    _, fields, content = await client.get("/chunked", "TE: trailers", "Connection: TE")
    assert content == b"hello world"
    assert fields["trailer:x-sum"] == "11"
    assert "trailer:content-length" not in fields


async def test_head_has_no_content_and_the_connection_goes_on(client: Client) -> None:
    client.send("HEAD", "/any")
    status, fields, _ = await client.answer("HEAD")
    assert (status, int(fields["content-length"]) > 0) == (200, True)
    assert (await client.get("/any"))[0] == 200


@pytest.mark.parametrize("code", [204, 304, 404, 503])
async def test_statuses_pass(client: Client, code: int) -> None:
    assert (await client.get(f"/status?code={code}"))[0] == code
    assert (await client.get("/any"))[0] == 200


async def test_continue_comes_before_the_body(client: Client) -> None:
    client.send("PUT", "/any", "Content-Length: 4", "Expect: 100-continue")
    assert (await client.answer())[0] == 100
    client.writer.write(b"body")
    assert said((await client.answer())[2])["length"] == 4


async def test_early_hints_pass(client: Client) -> None:
    status, fields, _ = await client.get("/interim")
    assert (status, fields["link"]) == (103, "</a.css>")
    assert (await client.answer())[2] == b"ok"


async def test_an_old_client_gets_no_interim_answer_and_no_chunks(meshed: Mesh) -> None:
    for path, content in (("/interim", b"ok"), ("/chunked", b"hello world")):
        client = Client(*await meshed.call())
        client.writer.write(b"GET %b HTTP/1.0\r\n\r\n" % path.encode())
        status, fields, got = await client.answer()
        assert (status, got) == (200, content)
        assert "transfer-encoding" not in fields
        assert await client.ended()


async def test_an_old_client_may_keep_its_connection(client: Client) -> None:
    for _ in range(2):
        client.writer.write(b"GET /any HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        status, fields, content = await client.answer()
        assert (status, fields["connection"]) == (200, "keep-alive")
        assert said(content)["by_name"]["host"] == "api"


async def test_content_until_the_end_is_chunked_for_a_new_client(client: Client) -> None:
    status, fields, content = await client.get("/until-close")
    assert (status, content) == (200, b"hello world")
    assert fields["transfer-encoding"] == "chunked"
    assert (await client.get("/any"))[0] == 200


async def test_close_is_honoured(client: Client) -> None:
    _, fields, _ = await client.get("/any", "Connection: close")
    assert fields["connection"] == "close"
    assert await client.ended()


async def test_an_early_answer_reaches_a_client_that_is_still_sending(
    meshed: Mesh, app: Scripted
) -> None:
    client = Client(*await meshed.call())
    client.send("POST", "/early", "Content-Length: 1000000", body=bytes(1000))
    status, fields, content = await client.answer()
    assert (status, content, fields["connection"]) == (413, b"no", "close")
    assert await client.ended()
    other = Client(*await meshed.call())
    assert said((await other.get("/any"))[2])["method"] == "GET"


async def test_an_early_answer_survives_the_reset_that_follows_it(meshed: Mesh) -> None:
    """An application that closes with the body unread resets the connection: its answer, come
    before that, is the answer all the same. Here writing fails before reading does.

    On a crowded machine one in fifty is gone from the socket by then (read(2) says end of stream
    after the reset), which no reader can mend; without a look at what is unread it was every other.
    """
    answers = []
    for _ in range(10):
        client = Client(*await meshed.call())
        client.send("POST", "/reject", "Content-Length: 4000000", body=bytes(4_000_000))
        status, _, content = await client.answer()
        assert (status, content) == (413, b"no") or status == 503
        answers.append(status)
        client.writer.transport.abort()
    assert answers.count(413) >= 8


async def test_a_half_closed_client_is_answered(client: Client) -> None:
    client.send("GET", "/drip?n=3&gap=0.05")
    client.writer.write_eof()
    assert (await client.answer())[2] == b"000102"
    assert await client.ended()


async def test_all_that_a_half_closed_client_asked_for_is_answered(meshed: Mesh) -> None:
    """On both sides: over TLS the end comes in the same read as the requests."""
    for streams in (await meshed.call(), await meshed.call_inbound()):
        client = Client(*streams)
        for number in range(3):
            client.send("GET", f"/any?{number}")
        if client.writer.can_write_eof():
            client.writer.write_eof()
        for number in range(3):
            assert said((await client.answer())[2])["target"] == f"/any?{number}"


async def test_a_client_that_leaves_ends_the_exchange(meshed: Mesh, app: Scripted) -> None:
    client = Client(*await meshed.call())
    aborted = app.aborted
    client.send("GET", "/drip?n=1000&gap=0.01")
    await client.head()
    client.writer.transport.abort()
    await app.abort_after(aborted)


async def test_websocket_through_a_real_library(meshed: Mesh) -> None:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with mesh_to(port) as running:
            url = f"ws://127.0.0.1:{running.outbound_port}/chat"
            async with websockets.connect(url, proxy=None) as connection:
                for size in (1, 125, 70_000, 500_000):
                    message = "x" * size
                    await connection.send(message)
                    assert await connection.recv() == message


Codes = asyncio.Queue[int | None]


@asynccontextmanager
async def chatting() -> AsyncIterator[tuple[Mesh, websockets.ClientConnection, Codes]]:
    """A WebSocket to an application that repeats what it is told; the code that each of them is
    closed with there."""
    codes: Codes = asyncio.Queue()

    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)
        await codes.put(connection.close_code)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with mesh_to(port) as running:
            url = f"ws://127.0.0.1:{running.outbound_port}/chat"
            async with websockets.connect(url, proxy=None) as connection:
                yield running, connection, codes


@pytest.mark.parametrize("side", ["caller", "callee"])
async def test_a_websocket_is_told_that_its_worker_goes_away(side: str) -> None:
    """At the end of the drain, on both ends, also in the middle of a message of many frames."""
    async with chatting() as (running, connection, codes):
        for size in (5, 70_000):
            await connection.send("x" * size)
            assert await connection.recv() == "x" * size
        draining = asyncio.ensure_future(getattr(running, side).drain(1.0))
        # It lives until then.
        await asyncio.sleep(0.5)
        await connection.send("still")
        assert await connection.recv() == "still"
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(connection.recv(), 5)
        assert connection.close_code == 1001
        assert await asyncio.wait_for(codes.get(), 5) == 1001
        assert await draining == 0


async def test_bytes_sent_before_the_upgrade_is_agreed_are_not_lost(client: Client) -> None:
    client.send("GET", "/upgrade", "Connection: Upgrade", "Upgrade: echo", body=b"early")
    status, fields = await client.head()
    assert (status, fields["upgrade"], fields["connection"]) == (101, "echo", "Upgrade")
    assert await client.reader.readexactly(5) == b"early"
    client.writer.write(b"late")
    client.writer.write_eof()
    assert await client.reader.read() == b"late"


async def test_cleartext_http2_is_not_offered_onwards(client: Client) -> None:
    """A tunnel of h2c would carry requests that no rule has seen."""
    _, _, content = await client.get(
        "/upgrade",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
    )
    assert not said(content)["by_name"].keys() & {"upgrade", "http2-settings", "connection"}


async def test_connect_is_refused(client: Client) -> None:
    client.send("CONNECT", "elsewhere:443")
    status, fields, _ = await client.answer()
    assert (status, fields["x-fleetmesh-reason"]) == (405, "connect_method")
    assert "allow" in fields


async def test_absolute_form_becomes_origin_form(client: Client) -> None:
    heard = said((await client.get("http://other.example:81?q=1"))[2])
    assert (heard["target"], heard["by_name"]["host"]) == ("/?q=1", "other.example:81")


async def test_asterisk_form_is_for_options_only(client: Client) -> None:
    client.send("OPTIONS", "*")
    assert said((await client.answer())[2])["target"] == "*"
    assert (await client.get("*"))[0] == 400


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: b",),
        ("Host: a b",),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: +1",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer_Encoding: chunked",),
        ("Content_Length: 3",),
        ("Connection: host",),
        ("Connection: content-length",),
        ("Connection: a b",),
        (" folded: yes",),
        ("X-Bad: a\x00b",),
        ("X : y",),
    ],
)
async def test_ambiguity_is_refused(client: Client, app: Scripted, lines: tuple[str, ...]) -> None:
    served = app.served
    status, fields, content = await client.get("/any", *lines)
    assert (status, fields["connection"], fields["x-fleetmesh-reason"]) == (
        400,
        "close",
        "malformed",
    )
    assert json.loads(content)["reason"] == "malformed"
    assert await client.ended()
    assert app.served == served


async def test_no_host_is_refused(client: Client) -> None:
    client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await client.answer())[0] == 400


async def test_a_broken_chunk_is_refused_and_the_application_never_sees_an_end(
    meshed: Mesh, app: Scripted
) -> None:
    client = Client(*await meshed.call())
    aborted = app.aborted
    client.send("POST", "/any", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n")
    await asyncio.sleep(0.1)
    client.writer.write(b"zz\r\n")
    assert (await client.answer())[0] == 400
    assert await client.ended()
    await app.abort_after(aborted)


async def test_hop_by_hop_fields_stay_on_their_hop(client: Client) -> None:
    _, _, content = await client.get(
        "/any", "Connection: keep-alive, X-Hop", "X-Hop: 1", "X-Stay: 2", "Keep-Alive: 9",
        "Proxy-Connection: keep-alive", "TE: gzip", "Via: 1.0 before", "Cookie: a=b", "Cookie: c=d",
    )  # fmt: skip
    heard = said(content)
    assert not heard["by_name"].keys() & {
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "te",
    }
    assert heard["by_name"]["via"] == "1.0 before"
    kept = [field for field in heard["fields"] if field[0] in ("X-Stay", "Cookie")]
    assert kept == [["X-Stay", "2"], ["Cookie", "a=b"], ["Cookie", "c=d"]]


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Client-Cert", "x_forwarded_client_cert", "X-Forwarded_Client-Cert"]
)
async def test_the_callers_identity_cannot_be_forged(
    meshed: Mesh, client: Client, name: str
) -> None:
    """Neither through one's own agent nor by dialling the sidecar port oneself."""
    direct = Client(*await meshed.call_inbound("web"))
    for caller in (client, direct):
        heard = said((await caller.get("/any", f"{name}: URI=spiffe://evil"))[2])
        certs = [
            v
            for k, v in heard["fields"]
            if k.lower().replace("_", "-") == "x-forwarded-client-cert"
        ]
        assert len(certs) == 1
        assert re.fullmatch(
            r'By=spiffe://\S+/svc/api;Hash=[0-9a-f]{64};Subject="CN=web";URI=spiffe://\S+/svc/web',
            certs[0],
        )


async def test_limits_answer_with_their_own_status(meshed: Mesh) -> None:
    for request, status in (
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost:", 408),
    ):
        client = Client(*await meshed.call())
        client.writer.write(request)
        assert (await client.answer())[0] == status, request[:40]
        assert await client.ended()


async def test_events_flow_as_they_are_sent(client: Client) -> None:
    begin = time.monotonic()
    client.send("GET", "/drip?n=5&gap=0.15")
    await client.head()
    for number in range(5):
        assert await client.reader.readuntil(b"\r\n") == b"2\r\n"
        assert await client.reader.readexactly(4) == b"%02d\r\n" % number
        late = time.monotonic() - begin - 0.15 * (number + 1)
        assert late < 0.12, f"event {number} came {late:.3f} s after it was sent"


async def test_large_bodies_arrive_whole(client: Client) -> None:
    upload = bytes(range(256)) * 4096 * 16
    client.send("POST", "/any", f"Content-Length: {len(upload)}")
    client.writer.write(upload)
    heard = said((await client.answer())[2])
    assert heard["sha256"] == hashlib.sha256(upload).hexdigest()
    client.send("GET", f"/big?size={len(upload)}")
    assert (await client.answer())[2] == upload


async def test_a_slow_reader_gets_the_last_byte(meshed: Mesh) -> None:
    """Its connection closes after the answer, but not before it has taken it."""
    reader, writer = await meshed.call()
    client = Client(reader, writer)
    client.send("GET", "/big?size=1500000", "Connection: close")
    await client.head()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(3.5)
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await reader.read()) == 1_500_000


def kernel_buffers() -> int:
    """What the kernel lets the two ends of one connection hold at most (tcp(7))."""
    limits = (Path("/proc/sys/net/ipv4") / name for name in ("tcp_rmem", "tcp_wmem"))
    return sum(int(limit.read_text().split()[2]) for limit in limits)


async def test_a_client_that_does_not_read_stops_the_application(
    meshed: Mesh, app: Scripted
) -> None:
    client = Client(*await meshed.call())
    client.send("GET", "/big?size=200000000")
    await asyncio.sleep(1.0)
    stopped_at = app.written
    await asyncio.sleep(0.3)
    assert app.written == stopped_at
    # Socket buffers of three connections, the reader's own megabyte, and little besides.
    assert stopped_at < 3 * kernel_buffers() + 4_000_000 < 200_000_000
    client.writer.transport.abort()


async def test_an_application_that_does_not_read_stops_the_client(client: Client) -> None:
    client.send("POST", "/never", "Content-Length: 200000000")
    sent = 0
    try:
        async with asyncio.timeout(1):
            while sent < 200_000_000:
                client.writer.write(bytes(1 << 16))
                await client.writer.drain()
                sent += 1 << 16
    except (TimeoutError, ConnectionError):
        pass
    assert sent < 60_000_000
    client.writer.transport.abort()


async def test_a_kept_connection_that_dies_is_replaced_where_that_is_safe(
    meshed: Mesh, app: Scripted
) -> None:
    client = Client(*await meshed.call())
    assert (await client.get("/last"))[0] == 200
    connections = app.connections
    assert (await client.get("/any"))[0] == 200
    assert app.connections == connections + 1


async def test_a_request_that_may_not_be_repeated_is_not(meshed: Mesh, app: Scripted) -> None:
    client = Client(*await meshed.call())
    assert (await client.get("/last"))[0] == 200
    client.send("POST", "/any", "Content-Length: 1", body=b"x")
    status, fields, _ = await client.answer()
    assert (status, fields["x-fleetmesh-reason"]) == (503, "upstream_reset")


async def test_an_answer_that_flows_may_take_longer_than_the_request_timeout(
    client: Client,
) -> None:
    """The timeout is for an answer to begin; a download is not cut off by it."""
    status, _, body = await client.get("/drip?n=12&gap=0.25")
    assert (status, body) == (200, b"".join(b"%02d" % number for number in range(12)))


async def test_silence_ends_in_a_timeout(client: Client) -> None:
    begin = time.monotonic()
    status, fields, _ = await client.get("/never")
    assert (status, fields["x-fleetmesh-reason"]) == (504, "request_timeout")
    assert 2.0 <= time.monotonic() - begin < 3.5


async def test_the_end_of_a_services_drain_ends_what_its_callers_have() -> None:
    """An idle connection by itself, a WebSocket with a word, the answer that is under way at once;
    connections to others stay."""
    async with chatting() as (running, connection, codes):
        await connection.send("one")
        assert await connection.recv() == "one"
        idle, _ = await running.call_inbound()
        for other in ("web", "nobody"):
            await running.callee.channel.send(Part(other))
        await connection.send("two")
        assert await connection.recv() == "two"
        await running.callee.channel.send(Part("api"))
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(connection.recv(), 5)
        assert connection.close_code == 1001
        assert await asyncio.wait_for(codes.get(), 5) == 1001
        assert await asyncio.wait_for(idle.read(), 10) == b""
