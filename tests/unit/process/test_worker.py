"""Worker processes: identities, intentions, swaps, drains; over real sockets and mutual TLS."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.ca import Authority, spiffe
from tests.support.mesh import Mesh, Streams, mesh
from tests.support.worker import (
    WorkerProcess,
    deny,
    inbound,
    listening,
    local_service,
    outbound,
    port_of,
    snapshot,
    upstream,
)

from fleetmesh.edge.ipc import Applied, Listener, ListenerKind, Publish
from fleetmesh.edge.tls import client_context, server_context
from fleetmesh.model.report import Direction, Report
from fleetmesh.model.traffic import Balancing, Protocol
from fleetmesh.settings import HttpSettings, TcpSettings, WorkerSettings

REQUEST = b"GET /any HTTP/1.1\r\nHost: api\r\n\r\n"


async def ask(streams: Streams, request: bytes = REQUEST) -> tuple[int, str, bytes]:
    """Status, the whole head, content."""
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(8):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
        return int(head.split(" ")[1]), head, await reader.readexactly(length)


async def ended(streams: Streams, seconds: float = 2.0) -> float:
    """How long it took until the connection was over; raises TimeoutError."""
    begin = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            while await streams[0].read(65536):
                pass
    except ConnectionError:
        pass
    return time.monotonic() - begin


def refusals(report: Report, direction: Direction = Direction.INBOUND) -> dict[str, int]:
    return {one.code: one.count for one in report.refusals if one.direction is direction}


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it gets, half-close included."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        pass


async def test_a_denied_request_is_told_by_which_intention() -> None:
    async with mesh(Scripted()) as running:
        await running.publish(deny("web", "api"))
        status, head, content = await ask(await running.call())
        assert status == 403
        assert "x-fleetmesh-reason: denied" in head
        assert json.loads(content) == {
            "error": "an intention denies this call",
            "reason": "denied",
            "source": "web",
            "destination": "api",
            "intention": "deny web => api",
        }
        assert refusals(await running.callee.report()) == {"denied": 1}
        await running.publish()
        assert (await ask(await running.call()))[0] == 200


async def test_a_new_denial_ends_what_is_open_within_two_seconds() -> None:
    async with mesh(Scripted()) as running:
        tunnel = await running.call()
        tunnel[1].write(
            b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        assert b" 101 " in await tunnel[0].readuntil(b"\r\n\r\n")
        stream = await running.call()
        stream[1].write(b"GET /drip?n=1000&gap=0.02 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await stream[0].readuntil(b"\r\n\r\n")
        waiting = await running.call()
        waiting[1].write(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        idle = await running.call()
        assert (await ask(idle))[0] == 200
        await asyncio.sleep(0.1)
        await running.publish(deny("web", "api"))
        assert await ended(tunnel) < 2
        assert await ended(stream) < 2
        assert b" 403 " in await waiting[0].readuntil(b"\r\n\r\n")
        assert (await ask(idle))[0] == 403
        assert refusals(await running.callee.report())["denied"] == 4


async def test_a_new_denial_ends_tcp_streams() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        stream = await running.call()
        stream[1].write(b"hello")
        assert await stream[0].readexactly(5) == b"hello"
        await running.publish(deny("web", "api"))
        assert await ended(stream) < 2
        assert await ended(await running.call()) < 2
        assert refusals(await running.callee.report()) == {"denied": 2}
        await running.publish()
        again = await running.call()
        again[1].write(b"hello")
        assert await again[0].readexactly(5) == b"hello"


async def test_tcp_is_relayed_with_half_close_and_counted() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        reader, writer = await running.call()
        sent = bytes(range(256)) * 40_000

        async def send() -> None:
            for at in range(0, len(sent), 1 << 16):
                writer.write(sent[at : at + (1 << 16)])
                await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read())
        assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
        for _ in range(100):
            count = (await running.callee.report()).connections[0]
            if not count.active:
                break
            await asyncio.sleep(0.02)
        assert (count.kind, count.opened) == ("tcp", 1)
        assert (count.bytes_sent, count.bytes_received) == (len(sent), len(sent))


async def test_a_server_that_speaks_first_is_heard() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        await reader.read()

    async with mesh(greet, protocol=Protocol.TCP) as running:
        reader, _ = await running.call()
        async with asyncio.timeout(3):
            assert await reader.readline() == b"220 ready\r\n"


async def test_an_idle_tcp_stream_ends_and_a_busy_one_does_not() -> None:
    settings = WorkerSettings(tcp=TcpSettings(idle_timeout=0.6))
    async with mesh(echo, protocol=Protocol.TCP, settings=settings) as running:
        idle, busy = await running.call(), await running.call()
        for _ in range(8):
            busy[1].write(b"x")
            assert await busy[0].readexactly(1) == b"x"
            await asyncio.sleep(0.2)
        assert await ended(idle, 0.1) < 0.1
        assert await ended(busy, 3) > 0.3


async def test_an_application_that_is_down() -> None:
    authority = Authority()
    gone = listening()
    port = port_of(gone)
    gone.close()
    side = listening()
    what = snapshot(
        authority,
        (
            local_service("web", 1, authority.leaf("web")),
            local_service("api", port, authority.leaf("api")),
        ),
        (upstream("api", port_of(side)),),
    )
    out = listening()
    async with WorkerProcess() as worker:
        await worker.publish(what, {inbound("api"): side, outbound("web", "api"): out})
        status, head, _ = await ask(await asyncio.open_connection("127.0.0.1", port_of(out)))
        assert (status, "application_down" in head) == (503, True)


@asynccontextmanager
async def called_by(context: ssl.SSLContext, running: Mesh) -> AsyncIterator[Streams]:
    streams = await asyncio.open_connection("127.0.0.1", running.sidecar_port, ssl=context)
    yield streams
    streams[1].close()


async def test_strangers_are_not_let_in() -> None:
    """Another root, no certificate, an expired one, another trust domain, no Consul identity."""
    async with mesh(Scripted()) as running:
        root, other = running.authority, Authority()
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nobody.check_hostname = False
        nobody.load_verify_locations(cadata=root.root)
        expired = root.leaf("web", life=-datetime.timedelta(hours=1))
        for context in (
            client_context([root.root], other.leaf("web")),
            nobody,
            client_context([root.root], expired),
            client_context([root.root], root.leaf("web", uri=str(spiffe("web", "other.consul")))),
            client_context([root.root], root.leaf("web", uri="spiffe://x/agent/client/dc/dc1")),
        ):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with called_by(context, running) as streams:
                    await ask(streams)
        assert refusals(await running.callee.report()) == {"untrusted_peer": 5}


async def test_plain_http_on_the_sidecar_port_is_refused_and_a_health_check_is_silent() -> None:
    async with mesh(Scripted()) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.sidecar_port)
        writer.close()
        await asyncio.sleep(0.1)
        assert refusals(await running.callee.report()) == {}
        plain = await asyncio.open_connection("127.0.0.1", running.sidecar_port)
        plain[1].write(REQUEST)
        assert await ended(plain) < 2
        assert refusals(await running.callee.report()) == {"plaintext": 1}


async def test_an_endpoint_must_prove_the_expected_service() -> None:
    """Its certificate is of this mesh, but it is not the one that was called."""
    authority = Authority()
    side, out = listening(), listening()
    what = snapshot(
        authority,
        (
            local_service("web", 1, authority.leaf("web")),
            local_service("api", 1, authority.leaf("api")),
        ),
        (upstream("api", port_of(side), identity="other"),),
    )
    async with WorkerProcess() as worker:
        await worker.publish(what, {inbound("api"): side, outbound("web", "api"): out})
        status, head, _ = await ask(await asyncio.open_connection("127.0.0.1", port_of(out)))
        assert (status, "wrong_peer" in head) == (503, True)


async def test_identities_never_share_a_connection() -> None:
    """cart and orders call api through one worker: each is shown as itself, every time."""
    authority, app = Authority(), Scripted()
    server = await asyncio.start_server(app, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    side, cart, orders = listening(), listening(), listening()
    names = ("cart", "orders", "api")
    services = tuple(
        local_service(name, port, authority.leaf(name), intentions=(deny("orders", "api"),))
        for name in names
    )
    what = snapshot(authority, services, (upstream("api", port_of(side)),))
    async with WorkerProcess() as worker:
        await worker.publish(
            what,
            {
                inbound("api"): side,
                outbound("cart", "api"): cart,
                outbound("orders", "api"): orders,
            },
        )
        for _ in range(5):
            status, _, content = await ask(
                await asyncio.open_connection("127.0.0.1", port_of(cart))
            )
            fields = dict(json.loads(content)["fields"])
            assert status == 200
            assert fields["X-Forwarded-Client-Cert"].endswith("/svc/cart")
            status, _, content = await ask(
                await asyncio.open_connection("127.0.0.1", port_of(orders))
            )
            assert (status, json.loads(content)["source"]) == (403, "orders")
    server.close()


async def test_a_second_connection_resumes_the_first_ones_session() -> None:
    """Each identity its own: a resumed session shows the certificate that it began with."""
    authority, reused = Authority(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        reused.append((tls.getpeercert()["subject"][0][0][1], tls.session_reused))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    context = server_context([authority.root], authority.leaf("api"))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    outs = {name: listening() for name in ("cart", "orders")}
    services = tuple(local_service(name, 1, authority.leaf(name)) for name in outs)
    what = snapshot(authority, services, (upstream("api", port),))
    async with WorkerProcess() as worker:
        await worker.publish(what, {outbound(name, "api"): sock for name, sock in outs.items()})
        for name in ("cart", "cart", "orders", "orders"):
            call = await asyncio.open_connection("127.0.0.1", port_of(outs[name]))
            assert (await ask(call))[0] == 200
    assert reused == [("cart", False), ("cart", True), ("orders", False), ("orders", True)]
    server.close()


async def test_endpoints_are_used_in_turn_and_dead_ones_are_passed_over() -> None:
    authority, app = Authority(), Scripted()
    server = await asyncio.start_server(app, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sides = [listening() for _ in range(2)]
    dead, out = listening(), listening()
    dead_port = port_of(dead)
    dead.close()
    api = upstream("api", *map(port_of, sides), dead_port)
    in_turn = replace(api.target, balancing=Balancing("round_robin"))
    what = snapshot(
        authority,
        (
            local_service("web", 1, authority.leaf("web")),
            local_service("api", port, authority.leaf("api")),
        ),
        (replace(api, target=in_turn),),
    )
    async with WorkerProcess() as caller, WorkerProcess() as one, WorkerProcess() as two:
        await caller.publish(what, {outbound("web", "api"): out})
        for worker, side in zip((one, two), sides, strict=True):
            await worker.publish(what, {inbound("api"): side})
        for _ in range(30):
            assert (await ask(await asyncio.open_connection("127.0.0.1", port_of(out))))[0] == 200
        shares = [(await worker.report()).requests[0].count for worker in (one, two)]
        assert sum(shares) == 30
        assert min(shares) >= 10
    server.close()


async def test_what_did_not_come_through_capture_is_refused() -> None:
    authority = Authority()
    out = listening()
    what = snapshot(authority, (local_service("web", 1, authority.leaf("web")),))
    async with WorkerProcess() as worker:
        await worker.publish(what, {Listener("out4.web", ListenerKind.OUTBOUND, "web"): out})
        assert await ended(await asyncio.open_connection("127.0.0.1", port_of(out))) < 1
        assert refusals(await worker.report(), Direction.OUTBOUND) == {"not_captured": 1}


async def test_a_service_without_a_certificate_sends_nothing() -> None:
    authority = Authority()
    side, out = listening(), listening()
    what = snapshot(authority, (local_service("web", 1, None),), (upstream("api", port_of(side)),))
    async with WorkerProcess() as worker:
        await worker.publish(what, {outbound("web", "api"): out})
        status, head, _ = await ask(await asyncio.open_connection("127.0.0.1", port_of(out)))
        assert (status, "no_identity" in head) == (503, True)


async def test_a_renewed_leaf_serves_new_handshakes_and_ends_nothing() -> None:
    async with mesh(Scripted()) as running:
        client = await running.call()
        assert (await ask(client))[0] == 200
        before = (await running.callee.report()).served
        await running.renew()
        after = (await running.callee.report()).served
        assert {one.serial for one in before}.isdisjoint({one.serial for one in after})
        assert (await ask(client))[0] == 200
        assert (await ask(await running.call()))[0] == 200
        connections = (await running.callee.report()).connections
        assert sum(one.opened for one in connections) <= 2


async def test_an_unreadable_snapshot_leaves_the_old_one_in_force() -> None:
    async with mesh(Scripted()) as running:
        await running.callee.channel.send(Publish(99, b"nonsense", (), ()))
        answer, _ = await running.callee.channel.receive()
        assert isinstance(answer, Applied)
        assert answer.error
        assert (await ask(await running.call()))[0] == 200


async def test_draining_finishes_what_is_under_way_and_loses_nothing() -> None:
    """A successor on the same socket takes over while the old one drains; keep-alive clients that
    heed `Connection: close` see no error."""
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:
        long = await running.call()
        long[1].write(b"GET /drip?n=30&gap=0.05 HTTP/1.0\r\n\r\n")
        await long[0].readuntil(b"\r\n\r\n")
        results: list[int] = []
        stop = time.monotonic() + 2.5

        async def client() -> None:
            streams = await running.call()
            while time.monotonic() < stop:
                status, head, _ = await ask(streams)
                results.append(status)
                if "connection: close" in head.lower():
                    streams[1].close()
                    streams = await running.call()
            streams[1].close()

        async def roll() -> int:
            await asyncio.sleep(0.5)
            await running.hand_over_callee(successor)
            begin = time.monotonic()
            code = await running.callee.drain(5)
            assert time.monotonic() - begin < 4
            return code

        outcomes = await asyncio.gather(roll(), *(client() for _ in range(8)))
        assert outcomes[0] == 0
        assert set(results) == {200}
        assert len(results) > 200
        assert await long[0].read() == b"".join(b"%02d" % number for number in range(30))


async def test_a_draining_caller_loses_nothing_either() -> None:
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:
        results: list[int] = []
        stop = time.monotonic() + 2.5

        async def client() -> None:
            streams = await running.call()
            while time.monotonic() < stop:
                status, head, _ = await ask(streams)
                results.append(status)
                if "connection: close" in head.lower():
                    streams[1].close()
                    streams = await running.call()

        async def roll() -> int:
            await asyncio.sleep(0.5)
            await running.hand_over_caller(successor)
            return await running.caller.drain(5)

        outcomes = await asyncio.gather(roll(), *(client() for _ in range(8)))
        assert outcomes[0] == 0
        assert set(results) == {200}


async def test_a_drain_ends_in_time_whatever_goes_on() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        stream = await running.call()
        stream[1].write(b"x")
        await stream[0].readexactly(1)
        begin = time.monotonic()
        assert await running.callee.drain(1.0) == 0
        assert 0.9 < time.monotonic() - begin < 2.0
        assert await ended(stream) < 1


async def test_a_denial_reaches_a_worker_that_drains() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        stream = await running.call()
        stream[1].write(b"x")
        await stream[0].readexactly(1)
        draining = asyncio.ensure_future(running.callee.drain(20))
        await asyncio.sleep(0.2)
        await running.publish(deny("web", "api"))
        assert await ended(stream) < 2
        assert await asyncio.wait_for(draining, 4) == 0


async def test_a_killed_worker_costs_its_own_connections_only() -> None:
    """Requests that may be repeated do not even notice, once its successor accepts."""
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:
        client = await running.call()
        assert (await ask(client))[0] == 200
        running.callee.process.send_signal(signal.SIGKILL)
        await running.callee.process.wait()
        await running.hand_over_callee(successor)
        assert (await ask(client))[0] == 200


async def test_a_worker_goes_with_its_controller() -> None:
    async with WorkerProcess() as worker:
        worker.channel.close()
        assert await asyncio.wait_for(worker.process.wait(), 3) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
async def test_a_worker_holds_no_capability() -> None:
    async with WorkerProcess() as worker:
        await worker.publish(snapshot(Authority()), {})
        status = proc(worker.process.pid, "status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"


async def test_a_worker_opens_as_many_files_as_it_may() -> None:
    """A soft limit that a shell left is raised to the hard one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = descriptors(os.getpid()) + 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        async with WorkerProcess() as worker:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            await worker.publish(snapshot(Authority()), {})
            limits = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
            assert limits == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_no_file_descriptors_left_is_no_busy_loop() -> None:
    """Connections beyond the limit fail; the worker neither spins nor dies."""
    async with mesh(Scripted()) as running:
        pid = running.callee.process.pid
        have = descriptors(pid)
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (have + 4, hard))
        held = [socket.create_connection(("127.0.0.1", running.sidecar_port)) for _ in range(40)]
        await asyncio.sleep(0.2)

        def ticks() -> int:
            stat = proc(pid, "stat").rpartition(")")[2].split()
            return int(stat[11]) + int(stat[12])

        before = ticks()
        await asyncio.sleep(1)
        assert ticks() - before < 0.3 * os.sysconf("SC_CLK_TCK")
        for sock in held:
            sock.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        await asyncio.sleep(0.5)
        assert (await ask(await running.call()))[0] == 200


async def test_two_workers_share_a_socket_fairly_enough() -> None:
    """Neither is starved: of many connections each gets a part."""
    authority, app = Authority(), Scripted()
    server = await asyncio.start_server(app, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    side, out = listening(), listening()
    what = snapshot(
        authority,
        (
            local_service("web", 1, authority.leaf("web")),
            local_service("api", port, authority.leaf("api")),
        ),
        (upstream("api", port_of(side)),),
    )
    async with WorkerProcess() as one, WorkerProcess(1) as two:
        listeners = {inbound("api"): side, outbound("web", "api"): out}
        for worker in (one, two):
            await worker.publish(what, listeners)

        async def client(number: int) -> None:
            await asyncio.sleep(number * 0.004)  # of a burst one may well take all
            streams = await asyncio.open_connection("127.0.0.1", port_of(out))
            for _ in range(3):
                assert (await ask(streams))[0] == 200
            await asyncio.sleep(0.2)
            streams[1].close()

        for _ in range(4):
            await asyncio.gather(*(client(number) for number in range(50)))
        opened = [
            sum(
                c.opened
                for c in (await worker.report()).connections
                if c.direction is Direction.OUTBOUND
            )
            for worker in (one, two)
        ]
        assert sum(opened) == 200
        assert min(opened) >= 2, opened
    server.close()


async def test_slow_heads_do_not_hold_others_up() -> None:
    settings = WorkerSettings(http=HttpSettings(head_timeout=1.0))
    async with mesh(Scripted(), settings=settings) as running:
        slow = [await running.call() for _ in range(200)]
        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\n")
        begin = time.monotonic()
        assert (await ask(await running.call()))[0] == 200
        assert time.monotonic() - begin < 0.5
        for reader, writer in slow:
            async with asyncio.timeout(4):
                assert b" 408 " in await reader.readline()
            writer.close()
