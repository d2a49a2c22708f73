"""Connections whose protocol nobody declared, through two workers and their mutual TLS."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from typing import Any

import pytest
from tests.support.app import Scripted
from tests.support.ca import Authority
from tests.support.mesh import Mesh, Streams, mesh
from tests.support.tls import client_hello
from tests.support.worker import deny, local_service, snapshot, upstream

from fleetmesh.core.table import link
from fleetmesh.edge.tls import server_context
from fleetmesh.model.report import ConnectionCount
from fleetmesh.model.traffic import Protocol
from fleetmesh.proxy.detect import Detecting, serve
from fleetmesh.proxy.exchange import Exchange
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import OutboundSite
from fleetmesh.proxy.tcp import TcpArrival
from fleetmesh.settings import HttpSettings, TcpSettings, WorkerSettings

LONG = WorkerSettings(tcp=TcpSettings(detect_timeout=60))
SHORT = WorkerSettings(tcp=TcpSettings(detect_timeout=0.05))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()
    except ConnectionError:
        pass


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ready\r\n" + await reader.readline())
    writer.close()


async def drip(streams: Streams, data: bytes) -> None:
    for at in range(len(data)):
        streams[1].write(data[at : at + 1])
        await asyncio.sleep(0.002)


async def counts(running: Mesh) -> set[str]:
    """The kinds of connections on both sides."""
    reports = (await running.caller.report(), await running.callee.report())
    found: list[ConnectionCount] = [one for report in reports for one in report.connections]
    return {f"{one.direction.value} {one.kind}" for one in found}


async def test_a_request_cut_at_every_byte_is_http_on_both_sides() -> None:
    """With all that comes with it: the application is told who calls."""
    async with mesh(Scripted(), protocol=Protocol.AUTO, settings=LONG) as running:
        streams = await running.call()
        await drip(streams, b"GET /any?x=1 HTTP/1.1\r\nHost: api\r\n\r\n")
        for _ in range(2):  # the second is no first bytes any more
            async with asyncio.timeout(5):
                head = (await streams[0].readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
                seen = json.loads(await streams[0].readexactly(length))
            assert seen["target"] == "/any?x=1"
            fields = dict(seen["fields"])
            assert fields["X-Forwarded-Client-Cert"].endswith("/svc/web")
            streams[1].write(b"GET /any?x=1 HTTP/1.1\r\nHost: api\r\n\r\n")
        assert await counts(running) == {"outbound http", "inbound http"}


@pytest.mark.parametrize("called_as", [Protocol.HTTP, Protocol.TCP])
async def test_a_caller_that_knows_another_protocol_is_understood(called_as: Protocol) -> None:
    """While a fleet changes over: the callee goes by what comes."""
    async with mesh(
        Scripted(), protocol=Protocol.AUTO, called_as=called_as, settings=LONG
    ) as running:
        reader, writer = await running.call()
        writer.write(b"GET /any HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(5):
            assert b"/svc/web" in await reader.read()
        assert await counts(running) == {f"outbound {called_as.value}", "inbound http"}


async def test_a_clients_tls_passes_untouched_to_an_application_of_its_own() -> None:
    """End to end, with the application's certificate and under its name."""
    authority = Authority()
    server = server_context([authority.root], authority.leaf("inner"))
    server.verify_mode = ssl.CERT_NONE
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    inner = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*inner.sockets[0].getsockname())

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with mesh(forward, protocol=Protocol.AUTO, settings=LONG) as running:
        client = ssl.create_default_context(cadata=authority.root)
        client.check_hostname = False
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.outbound_port, ssl=client, server_hostname="Shop.example"
            )
            writer.write(b"secret")
            assert await reader.readexactly(6) == b"secret"
            assert await counts(running) == {"outbound tls", "inbound tls"}
            writer.close()
    assert names == ["Shop.example"]
    inner.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"*1\r\n$4\r\nPING\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"\x16\x03\x01 is no ClientHello",
        bytes(range(256)) * 300,
    ],
)
async def test_whatever_else_is_relayed_byte_for_byte_at_once(sent: bytes) -> None:
    """What was read to find it out is sent on, once and first."""
    async with mesh(echo, protocol=Protocol.AUTO, settings=LONG) as running:
        streams = await running.call()
        await drip(streams, sent[:40])
        streams[1].write(sent[40:])
        streams[1].write_eof()
        async with asyncio.timeout(5):
            assert await streams[0].read() == sent
        assert await counts(running) == {"outbound tcp", "inbound tcp"}


@pytest.mark.parametrize("sent", [b"", b"GET", b"\x16\x03\x01"])
async def test_a_client_that_ends_undecided_is_tcp_at_once(sent: bytes) -> None:
    """Its half-close says that nothing follows; the application hears it."""
    async with mesh(echo, protocol=Protocol.AUTO, settings=LONG) as running:
        reader, writer = await running.call()
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert await reader.read() == sent


async def test_a_server_that_speaks_first_is_heard_after_the_wait() -> None:
    async with mesh(greet, protocol=Protocol.AUTO, settings=SHORT) as running:

        async def silent() -> None:
            reader, writer = await running.call()
            async with asyncio.timeout(5):
                # Half a method, too, is no reason to wait any longer.
                writer.write(b"GE")
                await asyncio.sleep(0.3)
                writer.write(b"T\n")
                assert await reader.read() == b"220 ready\r\nGET\n"

        await silent()
        assert await counts(running) == {"outbound tcp", "inbound tcp"}


async def test_a_client_that_goes_while_it_is_waited_for_leaves_nothing() -> None:
    async with mesh(echo, protocol=Protocol.AUTO, settings=LONG) as running:
        for _ in range(3):
            _, writer = await running.call()
            writer.write(b"GET")
            writer.transport.abort()
        begin = time.monotonic()
        assert await running.caller.drain(20.0) == 0  # nothing is left to wait for
        assert time.monotonic() - begin < 10


async def test_a_denied_request_is_told_so_in_http_although_nothing_was_declared() -> None:
    async with mesh(Scripted(), protocol=Protocol.AUTO, settings=LONG) as running:
        await running.publish(deny("web", "api"))
        reader, writer = await running.call()
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        async with asyncio.timeout(5):
            assert b" 403 " in await reader.readuntil(b"\r\n\r\n")


async def test_an_intention_that_changes_while_bytes_are_waited_for_counts() -> None:
    async with mesh(Scripted(), protocol=Protocol.AUTO, settings=LONG) as running:
        reader, writer = await running.call_inbound()
        writer.write(b"GET / HT")
        await running.publish(deny("web", "api"))
        writer.write(b"TP/1.1\r\nHost: api\r\n\r\n")
        async with asyncio.timeout(5):
            assert b" 403 " in await reader.readuntil(b"\r\n\r\n")


class Accepted(asyncio.Transport):
    """A connection that a test speaks on."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol: Any = protocol

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes anyway."""

    def abort(self) -> None:
        """Nobody is there."""


@pytest.mark.parametrize(
    ("protocol", "port", "taker"),
    [
        (Protocol.HTTP, 3306, Exchange),
        (Protocol.TCP, 8000, TcpArrival),
        (Protocol.AUTO, 8000, Detecting),
        (Protocol.AUTO, 0, Detecting),
        (Protocol.AUTO, 3306, TcpArrival),
        (Protocol.AUTO, 25, TcpArrival),
    ],
)
async def test_what_is_declared_or_well_known_is_not_waited_for(
    protocol: Protocol, port: int, taker: type
) -> None:
    plane, site = place()
    transport = Accepted()
    serve(plane, transport, site, protocol, port)
    assert type(transport.protocol) is taker
    plane.abort_all()


async def test_the_name_that_a_client_asks_for_stands_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a refusal, and of every connection for whoever debugs."""
    caplog.set_level(logging.DEBUG)
    plane, site = place()
    transport = Accepted()
    serve(plane, transport, site, Protocol.AUTO, 8000)
    transport.protocol.data_received(client_hello("shop.example"))
    events = {fields["event"]: fields for fields in map(fields_of, caplog.records) if fields}
    assert (site.kind, events["detected"]["kind"]) == ("tls", "tls")
    assert events["refused"]["reason"] == "no_identity"
    assert {events[event]["sni"] for event in ("detected", "refused")} == {"shop.example"}


def place() -> tuple[Plane, OutboundSite]:
    """A worker's plane, and a site of web, which has no certificate yet, calling api."""
    state = snapshot(Authority(), (local_service("web", 1, None),), (upstream("api", 1),))
    plane = Plane(
        asyncio.get_running_loop(), HttpSettings(), TcpSettings(), link(state, 1, None, 0)
    )
    return plane, OutboundSite(plane, "web", "api", "tcp", b"api", False)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    fields: dict[str, str] = getattr(record, "fields", {})
    return fields
