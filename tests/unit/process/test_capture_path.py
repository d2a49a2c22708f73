"""What nftables redirects, in namespaces of the test's own: original destinations of both
families, passing through, and plain connections."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from tests.support.app import Scripted
from tests.support.ca import Authority
from tests.support.cable import USABLE, Namespace, cabled
from tests.support.mesh import Streams
from tests.support.worker import WorkerProcess, inbound, local_service, snapshot, upstream

from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Mode, Snapshot
from fleetmesh.model.traffic import Protocol

pytestmark = [
    pytest.mark.skipif(not USABLE, reason="needs root, nft and x86-64"),
    pytest.mark.asyncio(loop_scope="module"),
]

UID = 4242
RULES = f"""
table inet test {{
  chain out {{
    type nat hook output priority -100;
    meta skuid {UID} meta nfproto ipv4 ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :15100
    meta skuid {UID} meta nfproto ipv6 ip6 daddr != ::1 meta l4proto tcp redirect to :15100
  }}
  chain pre {{
    type nat hook prerouting priority -100;
    iifname != "lo" fib daddr type local tcp dport {{ 8000, 9000 }} redirect to :15006
  }}
}}
"""
OUT4 = Listener("out4.web", ListenerKind.OUTBOUND, "web")
OUT6 = Listener("out6.web", ListenerKind.OUTBOUND, "web")
PLAIN = Listener("plain", ListenerKind.PLAIN, "")


async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"banner\n")
    await reader.read()
    writer.close()


class Host:
    """api (http, port 8000) and db (tcp, port 9000) with web on one host; an address outside the
    mesh serves on port 7000 of 10.99.1.1."""

    def __init__(self, space: Namespace, peer: Namespace, worker: WorkerProcess) -> None:
        self.space, self.peer, self.worker = space, peer, worker
        authority = Authority()
        self._authority = authority
        self._leaves = {name: authority.leaf(name) for name in ("web", "api", "db")}
        self._listeners = {
            OUT4: space.listening("127.0.0.1", 15100),
            OUT6: space.listening("::1", 15100),
            inbound("api"): space.listening("::", 21000),
            PLAIN: space.listening("::", 15006),
        }

    def state(self, mode: Mode, only_mesh: bool, protocol: Protocol) -> Snapshot:
        return snapshot(
            self._authority,
            (
                local_service("web", 1, self._leaves["web"]),
                local_service("api", 8000, self._leaves["api"], mode=mode, protocol=protocol),
                local_service("db", 9000, self._leaves["db"], mode=mode, protocol=Protocol.TCP),
            ),
            (
                upstream(
                    "api",
                    21000,
                    destinations=(("10.99.0.2", 8000), ("fd99::2", 8000)),
                    protocol=protocol,
                ),
            ),
            mesh_destinations_only=only_mesh,
        )

    async def publish(
        self,
        mode: Mode = Mode.STRICT,
        *,
        only_mesh: bool = False,
        protocol: Protocol = Protocol.HTTP,
    ) -> None:
        """`protocol` is api's."""
        state = self.state(mode, only_mesh, protocol)
        applied = await self.worker.publish(state, self._listeners)
        assert not applied.error

    async def call(
        self, space: Namespace, address: str, port: int, uid: int | None = None
    ) -> bytes:
        """All that comes back for one request; b"" when the connection is ended."""
        sock = space.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, uid)
        async with asyncio.timeout(5):
            reader, writer = await self.connect(sock, address, port)
            try:
                writer.write(b"GET /any HTTP/1.0\r\nX-Forwarded-Client-Cert: forged\r\n\r\n")
                writer.write_eof()
                return await reader.read()
            except OSError:
                return b""
            finally:
                writer.close()

    async def connect(self, sock: socket.socket, address: str, port: int) -> Streams:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        return await asyncio.open_connection(sock=sock)


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    with cabled(RULES) as pair:
        yield pair


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(spaces: tuple[Namespace, Namespace]) -> AsyncIterator[Host]:
    space, peer = spaces
    api = await asyncio.start_server(Scripted(), sock=space.listening("127.0.0.1", 8000))
    db = await asyncio.start_server(banner, sock=space.listening("127.0.0.1", 9000))
    outside = await asyncio.start_server(banner, sock=space.listening("10.99.1.1", 7000))
    async with WorkerProcess(netns=space.name) as worker:
        yield Host(space, peer, worker)
    for server in (api, db, outside):
        server.close()


@pytest.mark.parametrize("address", ["10.99.0.2", "fd99::2"])
async def test_a_captured_call_reaches_its_upstream_with_its_identity(
    host: Host, address: str
) -> None:
    await host.publish()
    answer = await host.call(host.space, address, 8000, UID)
    fields = dict(json.loads(answer.partition(b"\r\n\r\n")[2])["fields"])
    assert fields["X-Forwarded-Client-Cert"].endswith("/svc/web")
    assert fields["Host"] == (f"[{address}]:8000" if ":" in address else f"{address}:8000")


async def test_a_protocol_that_is_found_out_is_served_like_a_declared_one(host: Host) -> None:
    """Captured, and plain in both modes."""
    await host.publish(Mode.PERMISSIVE, protocol=Protocol.AUTO)
    answer = await host.call(host.space, "10.99.0.2", 8000, UID)
    fields = dict(json.loads(answer.partition(b"\r\n\r\n")[2])["fields"])
    assert fields["X-Forwarded-Client-Cert"].endswith("/svc/web")
    answer = await host.call(host.peer, "10.99.0.2", 8000)
    assert b"x-forwarded-client-cert" not in answer.lower()
    kinds = {one.kind for one in (await host.worker.report()).connections}
    assert "permissive" in kinds
    await host.publish(protocol=Protocol.AUTO)
    answer = await host.call(host.peer, "10.99.0.2", 8000)
    assert b"x-fleetmesh-reason: plaintext" in answer


async def test_what_is_not_in_the_mesh_passes_untouched_or_not_at_all(host: Host) -> None:
    await host.publish()
    assert await host.call(host.space, "10.99.1.1", 7000, UID) == b"banner\n"
    kinds = {one.kind for one in (await host.worker.report()).connections}
    assert "passthrough" in kinds
    await host.publish(only_mesh=True)
    assert await host.call(host.space, "10.99.1.1", 7000, UID) == b""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_nobody_borrows_an_identity_by_dialling_the_socket(host: Host, address: str) -> None:
    await host.publish()
    for uid in (UID, 4243, None):
        assert await host.call(host.space, address, 15100, uid) == b""
    report = await host.worker.report()
    codes = {one.code for one in report.refusals if one.direction is Direction.OUTBOUND}
    assert "not_captured" in codes


@pytest.mark.parametrize("address", ["10.99.0.2", "fd99::2"])
async def test_plain_connections_are_refused_in_strict_mode(host: Host, address: str) -> None:
    await host.publish()
    answer = await host.call(host.peer, address, 8000)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"x-fleetmesh-reason: plaintext" in answer
    assert await host.call(host.peer, address, 9000) == b""


@pytest.mark.parametrize("address", ["10.99.0.2", "fd99::2"])
async def test_plain_connections_are_served_in_permissive_mode(host: Host, address: str) -> None:
    """And tell the application of no certificate."""
    await host.publish(Mode.PERMISSIVE)
    answer = await host.call(host.peer, address, 8000)
    fields = dict(json.loads(answer.partition(b"\r\n\r\n")[2])["fields"])
    assert "X-Forwarded-Client-Cert" not in fields
    assert await host.call(host.peer, address, 9000) == b"banner\n"


async def test_an_open_plain_stream_ends_when_the_mode_becomes_strict(host: Host) -> None:
    await host.publish(Mode.PERMISSIVE)
    reader, writer = await host.connect(host.peer.socket(), "10.99.0.2", 9000)
    async with asyncio.timeout(3):
        assert await reader.readline() == b"banner\n"
        await host.publish()
        assert await reader.read() == b""
    writer.close()
