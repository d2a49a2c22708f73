"""Every client that others wrote, through the mesh, with every server that others wrote."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.peers.clients import CLIENTS, EXPECTING, FOLLOWING, PATIENCE, Call, Client, Curl, present
from tests.peers.programs.content import LARGE, SMALL
from tests.peers.servers import PROGRAMS, SERVERS, http10, served
from tests.support.mesh import Mesh, mesh_to
from tests.support.worker import WorkerProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SERVERS)
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """The mesh in front of it."""
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as port:
        async with mesh_to(port) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients() -> AsyncIterator[Callable[[str], Awaitable[Client]]]:
    """Each is started when it is first asked for, and stays for all servers."""
    started: dict[str, Client] = {}
    async with AsyncExitStack() as stack:

        async def get(name: str) -> Client:
            if name not in started:
                started[name] = await stack.enter_async_context(CLIENTS[name]())
            return started[name]

        yield get


@pytest_asyncio.fixture(loop_scope="module", params=CLIENTS)
async def client(
    clients: Callable[[str], Awaitable[Client]], request: pytest.FixtureRequest
) -> Client:
    return await clients(request.param)


only_expecting = pytest.mark.parametrize("client", EXPECTING, indirect=True)
only_following = pytest.mark.parametrize("client", FOLLOWING, indirect=True)


async def test_get(client: Client, server: Mesh) -> None:
    """A small answer, and the server learns who asks."""
    small, caller = await client.exchange(
        server.outbound_port, Call("GET", "/small"), Call("GET", "/caller")
    )
    assert (small.status, small.content) == (200, SMALL)
    assert small.fields["content-length"] == str(len(SMALL))
    assert caller.content.endswith(b"/svc/web")


async def test_head(client: Client, server: Mesh) -> None:
    """The fields of the answer to GET, and nothing after them."""
    small, large = await client.exchange(
        server.outbound_port, Call("HEAD", "/small"), Call("HEAD", "/large")
    )
    assert (small.status, small.content) == (200, b"")
    assert small.fields["content-length"] == str(len(SMALL))
    assert large.fields["content-length"] == str(len(LARGE))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_upload(client: Client, server: Mesh, chunked: bool) -> None:
    """Of a length that is told beforehand and of one that is not."""
    calls = [
        Call("POST", "/echo", body=body, chunked=chunked) for body in (LARGE, b"", b"x", LARGE)
    ]
    replies = await client.exchange(server.outbound_port, *calls)
    assert [reply.status for reply in replies] == [200] * 4
    assert [reply.content == call.body for reply, call in zip(replies, calls, strict=True)] == [
        True
    ] * 4


@pytest.mark.parametrize("path", ["/large", "/chunked"])
async def test_download(client: Client, server: Mesh, path: str) -> None:
    (reply,) = await client.exchange(server.outbound_port, Call("GET", path))
    assert reply.status == 200
    assert reply.content == LARGE
    assert ("content-length" in reply.fields) == (path == "/large")


async def test_no_content(client: Client, server: Mesh) -> None:
    """204 has neither content nor a length."""
    nothing, small = await client.exchange(
        server.outbound_port, Call("GET", "/nothing"), Call("GET", "/small")
    )
    assert (nothing.status, nothing.content) == (204, b"")
    assert not nothing.fields.keys() & {"content-length", "transfer-encoding"}
    assert small.content == SMALL


async def test_not_modified(client: Client, server: Mesh) -> None:
    """What the server called the answer, it recognises."""
    (small,) = await client.exchange(server.outbound_port, Call("GET", "/small"))
    tag = small.fields["etag"]
    again, changed = await client.exchange(
        server.outbound_port,
        Call("GET", "/small", {"If-None-Match": tag}),
        Call("GET", "/small", {"If-None-Match": '"another"'}),
    )
    assert (again.status, again.content, again.fields["etag"]) == (304, b"", tag)
    assert (changed.status, changed.content) == (200, SMALL)


async def test_redirect(client: Client, server: Mesh) -> None:
    """Where it leads is not touched."""
    (old,) = await client.exchange(server.outbound_port, Call("GET", "/old"))
    assert (old.status, old.fields["location"]) == (302, "/small")


@only_following
async def test_redirect_that_is_followed(client: Client, server: Mesh) -> None:
    (small,) = await client.exchange(server.outbound_port, Call("GET", "/old", follow=True))
    assert (small.status, small.content) == (200, SMALL)


@only_expecting
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_expect_continue(client: Client, server: Mesh, chunked: bool) -> None:
    """The server's 100 arrives, and then the body does."""
    call = Call("POST", "/echo", body=LARGE, chunked=chunked, expect=True)
    for reply in await client.exchange(server.outbound_port, call, call):
        assert reply.continued
        assert reply.status == 200
        assert reply.content == LARGE


async def opened(worker: WorkerProcess) -> int:
    return sum(count.opened for count in (await worker.report()).connections)


async def test_connections_are_kept(
    client: Client, server: Mesh, request: pytest.FixtureRequest
) -> None:
    """After every kind of exchange the next goes over the same connections: the client's, the one
    between the workers, and the one to an application that keeps its own."""
    port = Call("GET", "/port")
    calls = [
        Call("GET", "/small"),
        Call("POST", "/echo", body=LARGE),
        Call("POST", "/echo", body=LARGE, chunked=True),
        Call("POST", "/echo", body=b"", chunked=True),
        Call("GET", "/nothing"),
        Call("GET", "/small", {"If-None-Match": '"small-1"'}),
        Call("GET", "/old"),
        Call("GET", "/large"),
        Call("GET", "/chunked"),
    ]
    if request.node.callspec.params["client"] != "node-fetch":  # closes after any HEAD
        calls.append(Call("HEAD", "/large"))
    before = await opened(server.caller), await opened(server.callee)
    replies = await client.exchange(
        server.outbound_port, *(one for call in calls for one in (call, port))
    )
    fresh = await opened(server.caller) - before[0], await opened(server.callee) - before[1]
    assert fresh[0] <= 1
    assert fresh[1] <= 1
    ports = {reply.content for reply in replies[1::2]}
    if request.node.callspec.params["server"] == "gunicorn-sync":
        assert len(ports) == len(calls)
    else:
        assert len(ports) == 1


async def test_many_at_once(client: Client, server: Mesh) -> None:
    """None gets another's answer."""
    paths = ("/small", "/large", "/chunked", "/caller")
    expected = {"/small": SMALL, "/large": LARGE, "/chunked": LARGE}

    async def one(path: str) -> None:
        (reply,) = await client.exchange(server.outbound_port, Call("GET", path))
        assert reply.content == expected.get(path, reply.content)

    await asyncio.gather(*(one(path) for path in paths * 2))


async def test_http10_client(server: Mesh) -> None:
    """A client of HTTP/1.0 gets content of unknown length up to the connection's end, no interim
    answer, and nothing chunked."""
    present("curl")
    replies = await Curl("--http1.0", patience=0.1).exchange(
        server.outbound_port,
        Call("GET", "/small"),
        Call("GET", "/chunked"),
        Call("HEAD", "/large"),
        Call("POST", "/echo", body=LARGE, expect=True),
        Call("GET", "/nothing"),
    )
    assert [reply.status for reply in replies] == [200, 200, 200, 200, 204]
    assert [
        reply.content == whole
        for reply, whole in zip(replies, (SMALL, LARGE, b"", LARGE, b""), strict=True)
    ] == [True] * 5
    assert not any("transfer-encoding" in reply.fields for reply in replies)
    assert not any(reply.continued for reply in replies)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http10_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    with http10(tmp_path_factory.mktemp("http10")) as port:
        async with mesh_to(port) as running:
            yield running


async def test_http10_server(client: Client, http10_server: Mesh) -> None:
    """Its connection ends with every answer, the client's does not, whether or not the answer's
    length was told."""
    before = await opened(http10_server.caller)
    small, unknown, echo = await client.exchange(
        http10_server.outbound_port,
        Call("GET", "/small"),
        Call("GET", "/chunked"),
        Call("POST", "/echo", body=LARGE),
    )
    assert await opened(http10_server.caller) - before <= 1
    sized, last = await client.exchange(  # after these some clients close, needlessly
        http10_server.outbound_port, Call("HEAD", "/large"), Call("HEAD", "/chunked")
    )
    assert (small.status, small.content) == (200, SMALL)
    assert unknown.content == LARGE
    assert unknown.fields["transfer-encoding"] == "chunked"
    assert (sized.content, sized.fields["content-length"]) == (b"", str(len(LARGE)))
    assert echo.content == LARGE
    assert (last.status, last.content) == (200, b"")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    command = [present("node"), str(PROGRAMS / "refusing_server.mjs")]
    directory = tmp_path_factory.mktemp("refusing")
    with served("refusing", directory, lambda port: [*command, str(port)]) as port:
        async with mesh_to(port) as running:
            yield running


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_upload_that_the_server_refuses(
    client: Client, refusing_server: Mesh, chunked: bool
) -> None:
    """The application's own answer arrives, although its connection breaks while the body is
    still coming."""
    call = Call("POST", "/", body=LARGE * 4, chunked=chunked)
    replies = await client.exchange(refusing_server.outbound_port, *([call] * 5))
    assert [(reply.status, reply.content) for reply in replies] == [(413, b"too large")] * 5


async def test_slow_upload_that_the_server_does_not_want(tmp_path: Path) -> None:
    """A client that reads only after it has sent all gets the answer that came long before. The
    standard library's is one."""

    def post(port: int) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.putrequest("POST", "/small")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders()
        for _ in range(16):
            connection.send(bytes(10_000))
            time.sleep(0.25)
        answer = connection.getresponse()
        connection.close()
        return answer.status, answer.headers["Server"]

    with SERVERS["nginx"](tmp_path) as port:
        async with mesh_to(port) as running:
            status, server = await asyncio.to_thread(post, running.outbound_port)
    assert status == 405
    assert server is not None
    assert "nginx" in server
