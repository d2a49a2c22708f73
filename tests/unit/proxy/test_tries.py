"""What callers notice of an instance that dies, vanishes or refuses, with default settings and over
real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from msgspec.structs import replace
from tests.support.cable import USABLE
from tests.support.instances import Load, instances
from tests.support.netns import Netns, join, netns

from fleetmesh.model.traffic import Endpoint, Protocol, Tries, Upstream
from fleetmesh.settings import HttpSettings, UpstreamSettings, WorkerSettings

DOWN = (
    b"HTTP/1.1 503 Service Unavailable\r\nx-fleetmesh-reason: application_down\r\n"
    b"Content-Length: 3\r\n\r\nno\n"
)
FULL = DOWN.replace(b"application_down", b"too_many_connections\r\nx-fleetmesh-overloaded: true")
OVERLOADED = FULL.replace(b"too_many_connections", b"overloaded")
RESET = DOWN.replace(b"application_down", b"upstream_reset")
POST = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1\r\n\r\nx"


def tries(said: Tries) -> Callable[[Upstream], Upstream]:
    return lambda api: replace(api, target=replace(api.target, tries=said))


async def test_one_of_four_that_is_killed_is_not_noticed() -> None:
    """Its requests under way are sent again elsewhere, those after it never reach it."""
    async with instances() as load, asyncio.TaskGroup() as group:
        for one in load.instances:
            one.delay = 0.005  # so that some are under way when it dies
        running = group.create_task(load.run(3.0))
        await asyncio.sleep(1.0)
        load.instances[2].kill()
        met = len(load.instances[2].asked)
        done = await running
        assert {status for _, status, _ in done} == {200}
        assert len(done) > 100
        assert len(load.instances[2].asked) == met
        assert sum(one.spared for one in (await load.worker.report()).retries) == 0


@pytest.mark.parametrize(
    ("answer", "request_", "status"),
    [
        (DOWN, b"GET / HTTP/1.1\r\nHost: api\r\n\r\n", b"200"),
        (DOWN, POST, b"200"),  # no application has seen it
        (FULL, POST, b"200"),  # nor here: its agent has no file to reach it by
        (OVERLOADED, b"GET / HTTP/1.1\r\nHost: api\r\n\r\n", b"503"),
        (RESET, b"GET / HTTP/1.1\r\nHost: api\r\n\r\n", b"200"),
        (RESET, POST, b"503"),
        (b"", b"GET / HTTP/1.1\r\nHost: api\r\n\r\n", b"200"),
        (b"", POST, b"503"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", POST, b"503"),
        (
            b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api\r\n\r\n",
            b"503",
        ),
    ],
)
async def test_what_is_sent_again_by_default(answer: bytes, request_: bytes, status: bytes) -> None:
    """Round after round until the one that fails was asked."""
    async with instances(2) as load:
        bad = load.instances[1]
        bad.answer = answer
        while not bad.asked:
            answered = await load.ask(request_)
        assert answered.split(b" ")[1] == status


async def test_none_is_sent_again_where_there_is_no_other_or_nobody_wants_it() -> None:
    off = WorkerSettings(upstream=UpstreamSettings(retries=0))
    for count, settings in ((1, None), (2, off)):
        async with instances(count, settings=settings) as load:
            for one in load.instances:
                one.answer = RESET
            assert b" 503 " in await load.ask()
            assert sum(len(one.asked) for one in load.instances) == 1


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_target_says_how_often(count: int) -> None:
    """Each time to another, and no more often than it says."""
    async with instances(5, say=tries(Tries(retries=count))) as load:
        for one in load.instances:
            one.answer = b""
        assert b" 503 " in await load.ask()
        asked = [len(one.asked) for one in load.instances]
        assert (sum(asked), max(asked)) == (count + 1, 1)


async def test_a_storm_stays_within_the_budget() -> None:
    """All of them fail everything: 1.2 times the demand, and what was saved up."""
    keep = WorkerSettings(upstream=UpstreamSettings(min_retries_per_second=0))
    async with instances(settings=keep) as load:
        for one in load.instances:
            one.answer = RESET
        done = await load.run(2.0)
        asked = sum(len(one.asked) for one in load.instances)
        assert len(done) < asked <= 1.25 * len(done)
        (again,) = (await load.worker.report()).retries
        assert (again.count, again.spared > 0) == (asked - len(done), True)


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """Where the kernel answers no dial: as many wait to be accepted as may."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(sock.getsockname())
            waiting.append(one)
        yield sock.getsockname()
        for one in waiting:
            one.close()


@pytest.mark.parametrize("protocol", [Protocol.HTTP, Protocol.TCP])
async def test_a_silent_dial_is_joined_by_another_of_either_kind(protocol: Protocol) -> None:
    with silent() as where:
        endpoint = Endpoint("silent", *where, weight=1000)

        def say(api: Upstream) -> Upstream:
            target = replace(api.target, endpoints=(endpoint, *api.target.endpoints))
            return replace(api, protocol=protocol, target=target)

        async with instances(2, say=say) as load:
            began = time.monotonic()
            answers = await asyncio.gather(*(load.ask() for _ in range(4)))
            assert {answer.split(b" ")[1] for answer in answers} == {b"200"}
            assert 0.9 < time.monotonic() - began < 3.0
            (out,) = (await load.worker.report()).ejected
            assert (out.endpoint, out.reason) == ("silent", "unanswered")


class Vanishing:
    """Four instances on another host, of which one can be cut off."""

    def __init__(self, load: Load, there: Netns) -> None:
        self.load, self._there = load, there

    def cut_off(self, number: int) -> None:
        """Packets from and to it are dropped; nobody is told."""
        rules = "".join(
            f"add table ip cut\nadd chain ip cut {hook} {{ type filter hook {hook} priority 0; }}\n"
            f"add rule ip cut {hook} tcp {port} {7000 + number} drop\n"
            for hook, port in (("input", "dport"), ("output", "sport"))
        )
        self._there.run("nft", "-f", "-", stdin=rules)


@asynccontextmanager
async def vanishing(settings: WorkerSettings | None = None) -> AsyncIterator[Vanishing]:
    with netns("tries-a") as here, netns("tries-b") as there:
        join(here, there, 61)
        ends = [("10.99.61.2", 7000 + number) for number in range(4)]
        sockets = [there.listen(*end) for end in ends]
        for sock in sockets:
            sock.setblocking(False)
        async with instances(
            settings=settings, addresses=ends, sockets=sockets, netns=here.name
        ) as load:
            yield Vanishing(load, there)


@pytest.mark.skipif(not USABLE, reason="needs network namespaces and nft")
async def test_one_of_four_that_vanishes_is_left_within_three_seconds() -> None:
    """Requests under way there and dials to there go elsewhere; nothing fails."""
    async with vanishing() as fleet, asyncio.TaskGroup() as group:
        load = fleet.load
        for one in load.instances:
            one.delay = 0.005
        running = group.create_task(load.run(9.0, lanes=16))
        await asyncio.sleep(2.0)
        fleet.cut_off(1)
        done = await running
        slow = [began for began, _, took in done if took > 0.9 and began > 1.0]
        assert [status for _, status, _ in done if status != 200] == []
        assert len(done) > 100
        assert slow, "nobody noticed that it was gone"
        probes = [began for began in slow if began > 2.0 + 5.0]  # the ejection is over
        assert len(probes) <= 1
        assert max(set(slow) - set(probes)) - 2.0 < 3.0, slow


@pytest.mark.skipif(not USABLE, reason="needs network namespaces and nft")
async def test_a_dial_that_nobody_answers_is_joined_by_another() -> None:
    """Without a connection to any of them yet. The first wait ejects the silent one."""
    async with vanishing() as fleet:
        fleet.cut_off(3)
        began = time.monotonic()
        answers = await asyncio.gather(*(fleet.load.ask() for _ in range(16)))
        assert {answer.split(b" ")[1] for answer in answers} == {b"200"}
        assert time.monotonic() - began < 3.0
        (out,) = (await fleet.load.worker.report()).ejected
        assert (out.endpoint, out.reason) == ("node3/api", "unanswered")
        began = time.monotonic()
        await asyncio.gather(*(fleet.load.ask() for _ in range(16)))
        assert time.monotonic() - began < 0.9


@pytest.mark.skipif(not USABLE, reason="needs network namespaces and nft")
async def test_a_request_that_may_have_arrived_is_not_sent_again_for_silence() -> None:
    """Of a method that is not idempotent; its time is the setting's."""
    settings = WorkerSettings(http=HttpSettings(request_timeout=3.0))
    async with vanishing(settings) as fleet:
        for _ in range(12):
            await fleet.load.ask(POST)
        for number in range(4):
            fleet.cut_off(number)
        began = time.monotonic()
        assert b" 504 " in await fleet.load.ask(POST)
        assert 2.9 < time.monotonic() - began < 5.0
