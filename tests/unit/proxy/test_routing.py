"""Requests on one connection, each sent where its route says."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.ca import Authority
from tests.support.worker import (
    WorkerProcess,
    inbound,
    listening,
    local_service,
    outbound,
    port_of,
    snapshot,
    upstream,
)

from fleetmesh.model.traffic import FieldMatch, Match, Protocol, QueryMatch, Route

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Caller:
    """web's side: requests of one connection, and `route` anew what api's routes are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, method: str, target: str, *lines: str) -> tuple[str, str]:
        """The service and the target that the application was asked for, or the reason why not."""
        head = "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", *lines))
        self._writer.write(f"{head}Host: api\r\n\r\n".encode())
        async with asyncio.timeout(5):
            answer = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            length = int(re.search(r"content-length: (\d+)", answer, re.IGNORECASE)[1])  # type: ignore[index]
            content = await self._reader.readexactly(length)
        refused = re.search(r"x-fleetmesh-reason: (\S+)", answer, re.IGNORECASE)
        if refused:
            return refused[1], ""
        said: dict[str, Any] = json.loads(content)
        cert = dict(said["fields"])["X-Forwarded-Client-Cert"]
        return re.search(r"By=\S+?/svc/(\w+);", cert)[1], said["target"]  # type: ignore[index]


class Two:
    """The services api and other behind one agent; api's routes are what `publish` says."""

    def __init__(self, caller: WorkerProcess, callee: WorkerProcess, app: int) -> None:
        self._caller, self._callee = caller, callee
        authority = self._authority = Authority()
        self._out, self._sides = listening(), {name: listening() for name in ("api", "other")}
        self.port = port_of(self._out)
        self.services = (
            local_service("web", 1, authority.leaf("web")),
            *(local_service(name, app, authority.leaf(name)) for name in self._sides),
        )
        self.target = {name: self.upstream(name).target for name in self._sides}

    def upstream(self, name: str, protocol: Protocol = Protocol.HTTP) -> Any:
        return upstream(name, port_of(self._sides[name]), protocol=protocol)

    async def publish(
        self, *routes: Route, protocol: Protocol = Protocol.HTTP, timeout: float | None = None
    ) -> None:
        assert await self.offer(*routes, protocol=protocol, timeout=timeout) == ["", ""]

    async def offer(
        self, *routes: Route, protocol: Protocol = Protocol.HTTP, timeout: float | None = None
    ) -> list[str]:
        """What the workers have against it."""
        api = replace(self.upstream("api", protocol), routes=routes, timeout=timeout)
        what = snapshot(self._authority, self.services, (api,))
        sides = {inbound(name): sock for name, sock in self._sides.items()}
        out = {outbound("web", "api"): self._out}
        applied = [await self._callee.publish(what, sides), await self._caller.publish(what, out)]
        return [answer.error for answer in applied]

    async def call(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two() -> AsyncIterator[Two]:
    server = await asyncio.start_server(Scripted(), "127.0.0.1", 0)
    async with WorkerProcess(0) as caller, WorkerProcess(1) as callee:
        yield Two(caller, callee, server.sockets[0].getsockname()[1])
    server.close()


async def test_one_request_of_each_kind(two: Two) -> None:
    """On one connection, each by its own criterion; the first that matches decides."""
    other = two.target["other"]
    await two.publish(
        Route("exact", Match(path_exact="/exact"), other),
        Route("field", Match(headers=(FieldMatch("x-canary", exact="yes"),)), other),
        Route("parameter", Match(query=(QueryMatch("canary", present=True),)), other),
        Route("method", Match(path_prefix="/kept/", methods=("DELETE",)), other),
        Route("regex", Match(path_regex="/v[0-9]+/.*"), other),
        Route("rewritten", Match(path_prefix="/old/"), prefix_rewrite="/new/"),
        Route("whole", Match(path_exact="/alias"), other, prefix_rewrite="/name"),
        Route("shadowed", Match(path_prefix="/exact"), other),
    )
    caller = await two.call()
    for method, target, lines, asked in (
        ("GET", "/exact?a=b", (), ("other", "/exact?a=b")),
        ("GET", "/any", (), ("api", "/any")),
        ("GET", "/any", ("X-Canary: yes",), ("other", "/any")),
        ("GET", "/any", ("X-Canary: no",), ("api", "/any")),
        ("GET", "/any?canary", (), ("other", "/any?canary")),
        ("DELETE", "/kept/1", (), ("other", "/kept/1")),
        ("GET", "/kept/1", (), ("api", "/kept/1")),
        ("GET", "/v12/x", (), ("other", "/v12/x")),
        ("GET", "/v/x", (), ("api", "/v/x")),
        ("GET", "/old/x?y=/old/", (), ("api", "/new/x?y=/old/")),
        ("GET", "/alias?x", (), ("other", "/name?x")),
        ("GET", "/exactly", (), ("other", "/exactly")),
        ("GET", "http://api/v1/x", (), ("other", "/v1/x")),
    ):
        assert await caller.ask(method, target, *lines) == asked


async def test_routes_change_under_an_open_connection(two: Two) -> None:
    """The next request follows the routes of the moment, and none are as good as others."""
    other = two.target["other"]
    caller = await two.call()
    await two.publish(Route("a", Match(path_prefix="/a"), other))
    assert await caller.ask("GET", "/a") == ("other", "/a")
    await two.publish(Route("b", Match(path_prefix="/b"), other, "/c"))
    assert await caller.ask("GET", "/a") == ("api", "/a")
    assert await caller.ask("GET", "/b") == ("other", "/c")
    await two.publish()
    assert await caller.ask("GET", "/b") == ("api", "/b")


async def test_a_target_without_endpoints_is_no_reason_to_go_elsewhere(two: Two) -> None:
    """What a route takes is its own, also when it cannot be delivered."""
    await two.publish(
        Route("a", Match(path_prefix="/a"), replace(two.target["other"], endpoints=()))
    )
    caller = await two.call()
    assert await caller.ask("GET", "/a") == ("no_endpoint", "")
    assert await caller.ask("GET", "/b") == ("api", "/b")


async def test_a_route_goes_to_the_identity_of_its_target(two: Two) -> None:
    """Whoever else answers at its endpoints is refused."""
    wrong = replace(two.target["other"], endpoints=two.target["api"].endpoints)
    await two.publish(Route("a", Match(path_prefix="/a"), wrong))
    assert (await (await two.call()).ask("GET", "/a"))[0] == "wrong_peer"


async def test_tcp_knows_no_routes(two: Two) -> None:
    await two.publish(Route("all", Match(), two.target["other"]), protocol=Protocol.TCP)
    assert await (await two.call()).ask("GET", "/a") == ("api", "/a")


async def test_a_route_that_cannot_be_compiled_changes_nothing(two: Two) -> None:
    """Should a controller ever send one: the worker says so and serves on by the last routes."""
    await two.publish(Route("a", Match(path_prefix="/a"), two.target["other"]))
    caller = await two.call()
    bad = Route("b", Match(path_regex="/(b"), two.target["other"])
    assert all(error.startswith("routes: ") for error in await two.offer(bad))
    assert await caller.ask("GET", "/a") == ("other", "/a")


async def test_a_route_says_how_long_its_answers_may_take_to_begin(two: Two) -> None:
    """On one connection: a route's own, the upstream's where none matches, the settings' else."""
    await two.publish(
        Route("hasty", Match(path_prefix="/never"), timeout=0.3),
        Route("quiet", Match(path_prefix="/drip"), idle_timeout=0.3),
        timeout=5.0,
    )
    caller = await two.call()
    began = time.monotonic()
    assert await caller.ask("GET", "/never") == ("request_timeout", "")
    assert 0.3 <= time.monotonic() - began < 3
    assert await caller.ask("POST", "/never", "Content-Length: 0") == ("request_timeout", "")
    assert await caller.ask("GET", "/any") == ("api", "/any")
    await two.publish(timeout=0.3)
    assert await caller.ask("GET", "/never") == ("request_timeout", "")
    await two.publish()
    assert await caller.ask("GET", "/any") == ("api", "/any")


async def test_a_route_says_how_long_an_answer_may_take_and_pause(two: Two) -> None:
    """A `timeout` is for the whole of it; what passes either ends with the connection."""
    await two.publish(
        Route(
            "slow", Match(path_prefix="/drip", query=(QueryMatch("s", present=True),)), timeout=1.0
        ),
        Route("quiet", Match(path_prefix="/drip"), idle_timeout=0.3),
    )
    for query, whole in (("n=2&gap=0.2&s", True), ("n=20&gap=0.2&s", False), ("n=2&gap=3", False)):
        reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
        writer.write(
            f"GET /drip?{query} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"0\r\n\r\n") is whole
        writer.close()
