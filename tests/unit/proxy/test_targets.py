"""Which endpoint requests reach, over real sockets: by splits, in place of one that has none, by
hashes, and no more than may."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from math import sqrt
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

from fleetmesh.core.table import Table, link
from fleetmesh.model.traffic import (
    Balancing,
    HashPolicy,
    Health,
    Limits,
    Protocol,
    Route,
    Split,
    Target,
    Upstream,
)
from fleetmesh.proxy import listener
from fleetmesh.proxy.listener import OutboundArrival
from fleetmesh.proxy.site import OutboundSite, Site
from fleetmesh.settings import HttpSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Caller:
    """One of web's connections."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, target: str, *lines: str) -> None:
        head = "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", "Host: api", *lines))
        self._writer.write(f"{head}\r\n".encode())

    async def head(self) -> str:
        async with asyncio.timeout(20):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def ask(self, target: str, *lines: str) -> tuple[str, str]:
        """The service that was asked, or the reason why none, and the answer's head."""
        await self.send(target, *lines)
        answer = await self.head()
        length = int(re.search(r"content-length: (\d+)", answer, re.IGNORECASE)[1])  # type: ignore[index]
        content = await self._reader.readexactly(length)
        refused = re.search(r"x-fleetmesh-reason: (\S+)", answer, re.IGNORECASE)
        if refused:
            return refused[1], answer
        said: dict[str, Any] = json.loads(content)
        cert = dict(said["fields"])["X-Forwarded-Client-Cert"]
        return re.search(r"By=\S+?/svc/(\w+);", cert)[1], answer  # type: ignore[index]


class Two:
    """The services api and other behind one agent, and one that calls api."""

    def __init__(self, caller: WorkerProcess, callee: WorkerProcess, app: int) -> None:
        self._caller, self._callee = caller, callee
        authority = self._authority = Authority()
        self._out, self._sides = listening(), {name: listening() for name in ("api", "other")}
        self._services = (
            local_service("web", 1, authority.leaf("web")),
            *(local_service(name, app, authority.leaf(name)) for name in self._sides),
        )

    def upstream(self, name: str, **changes: Any) -> Upstream:
        own = upstream(name, port_of(self._sides[name]))
        return replace(own, target=replace(own.target, **changes))

    def target(self, name: str, **changes: Any) -> Target:
        return self.upstream(name, **changes).target

    async def publish(self, api: Upstream) -> None:
        what = snapshot(self._authority, self._services, (api,))
        sides = {inbound(name): sock for name, sock in self._sides.items()}
        assert not (await self._callee.publish(what, sides)).error
        assert not (await self._caller.publish(what, {outbound("web", "api"): self._out})).error

    async def call(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", port_of(self._out)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two() -> AsyncIterator[Two]:
    server = await asyncio.start_server(Scripted(), "127.0.0.1", 0)
    async with WorkerProcess(0) as caller, WorkerProcess(1) as callee:
        yield Two(caller, callee, server.sockets[0].getsockname()[1])
    server.close()


async def test_splits_share_the_requests_of_one_connection(two: Two) -> None:
    """And a change of weights holds from the next request on."""
    splits = (Split(8000, two.target("api")), Split(2000, two.target("other")))
    await two.publish(replace(two.upstream("api"), splits=splits))
    caller = await two.call()
    counts = Counter([(await caller.ask("/any"))[0] for _ in range(500)])
    assert abs(counts["other"] - 100) <= 4 * sqrt(500 * 0.2 * 0.8)
    assert counts["api"] + counts["other"] == 500
    for name in ("other", "api"):
        route = Route("all", splits=(Split(10000, two.target(name)),))
        await two.publish(replace(two.upstream("api"), routes=(route,)))
        assert {(await caller.ask("/any"))[0] for _ in range(20)} == {name}


async def test_a_spare_serves_until_the_endpoints_return(two: Two) -> None:
    other = two.target("other")
    well = replace(two.upstream("api", failover=(other.id,)), spares=(other,))
    endpoint = well.target.endpoints[0]
    caller = await two.call()
    for health, served in (
        (Health.PASSING, "api"),
        (Health.CRITICAL, "other"),
        (Health.WARNING, "api"),
    ):
        now = replace(well.target, endpoints=(replace(endpoint, health=health),))
        await two.publish(replace(well, target=now))
        assert (await caller.ask("/any"))[0] == served


async def test_an_answer_carries_the_cookie_and_only_where_there_was_none(two: Two) -> None:
    policies = (HashPolicy(cookie="stick", cookie_ttl=60.0, cookie_path="/any"),)
    await two.publish(two.upstream("api", balancing=Balancing("maglev", hash_policies=policies)))
    caller = await two.call()
    name, answer = await caller.ask("/any")
    cookie = r'Set-Cookie: (stick="[0-9a-f]{16}"); Max-Age=60; Path=/any; HttpOnly\r'
    given = re.search(cookie, answer)
    assert name == "api"
    assert given, answer
    assert "stick" not in (await caller.ask("/any", f"Cookie: {given[1]}"))[1]
    assert "stick" in (await caller.ask("/any"))[1]
    await two.publish(two.upstream("api"))
    assert "stick" not in (await caller.ask("/any"))[1]


@pytest.mark.parametrize("policy", ["random", "least_request", "ring_hash", "maglev"])
async def test_every_policy_serves(two: Two, policy: str) -> None:
    await two.publish(two.upstream("api", balancing=Balancing(policy)))
    caller = await two.call()
    assert {(await caller.ask("/any"))[0] for _ in range(20)} == {"api"}


@pytest.mark.parametrize("limits", [Limits(max_connections=1), Limits(max_concurrent_requests=1)])
async def test_what_is_more_than_may_be_is_refused(two: Two, limits: Limits) -> None:
    await two.publish(two.upstream("api", limits=limits))
    one, other = await two.call(), await two.call()
    await one.send("/never")
    async with asyncio.timeout(20):
        while (said := (await other.ask("/any"))[0]) != "overflow":
            assert said == "api"
    one._writer.close()
    async with asyncio.timeout(20):
        while (await other.ask("/any"))[0] != "api":
            pass  # the other worker has yet to hear of it
    await two.publish(two.upstream("api"))


class Captured:
    """A plane and a transport as far as an arrival needs them."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.questions = None
        self.http = HttpSettings()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.9", 40000) if name == "peername" else default


@pytest.mark.parametrize(
    ("destination", "service"),
    [
        (("240.0.0.7", 80), "api"),
        (("240.0.0.7", 8443), "api"),
        (("fd00::7", 1), "api"),
        (("10.0.0.1", 80), "other"),
    ],
)
async def test_a_virtual_address_is_its_services_on_every_port(
    monkeypatch: pytest.MonkeyPatch, destination: tuple[str, int], service: str
) -> None:
    api = replace(upstream("api", 1), virtual_addresses=("240.0.0.7", "fd00::7"))
    other = upstream("other", 2, destinations=(("10.0.0.1", 80),))
    served: list[tuple[Site, Protocol, int]] = []
    serve: Callable[..., None] = lambda _plane, _transport, *what: served.append(what)  # noqa: E731
    monkeypatch.setattr(listener, "original_destination", lambda _transport: destination)
    monkeypatch.setattr(listener, "serve", serve)
    plane: Any = Captured(link(snapshot(Authority(), (), (api, other)), 1, None, 0))
    OutboundArrival(plane, "web", "").connection_made(plane)
    site, protocol, port = served[0]
    assert isinstance(site, OutboundSite)
    assert (site.destination, protocol, port) == (service, Protocol.HTTP, destination[1])
