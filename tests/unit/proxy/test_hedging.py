"""A request that is slower than most is sent to another endpoint too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from tests.support.instances import Instance, Load, instances

from fleetmesh.model.report import RetryCount
from fleetmesh.model.traffic import Balancing, Route, Tries, Upstream
from fleetmesh.settings import UpstreamSettings, WorkerSettings

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1\r\n\r\nx"
PUT = b"PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\n0123456789"


def hedged(api: Upstream) -> Upstream:
    target = replace(api.target, tries=Tries(hedge=True), balancing=Balancing("round_robin"))
    return replace(api, target=target)


@asynccontextmanager
async def known(
    say: Callable[[Upstream], Upstream] = hedged, settings: WorkerSettings | None = None
) -> AsyncIterator[Load]:
    """Two instances, quick and known to be."""
    async with instances(2, say=say, settings=settings) as load:
        for one in load.instances:
            one.delay = 0.01
        for _ in range(60):
            assert (await load.ask()).endswith(b"ok")
        yield load


async def counted(load: Load) -> tuple[int, int, int]:
    """Retries, hedges and those that won."""
    found = (await load.worker.report()).retries or (RetryCount("outbound", "", "", "", 0),)  # type: ignore[arg-type]
    return found[0].count, found[0].hedged, found[0].won


def asked(load: Load) -> int:
    return sum(len(one.asked) for one in load.instances)


async def slow_one(load: Load, request: bytes) -> tuple[bytes, float, Instance]:
    """The answer of the first request that the slow instance got before the other one, and its
    seconds."""
    slow = load.instances[0]
    slow.delay = 3.0
    met = len(slow.asked)
    loop = asyncio.get_running_loop()
    while all(b"x-fleetmesh-attempts" in head for head in slow.asked[met:]):
        began = loop.time()
        answer = await load.ask(request)
    return answer, loop.time() - began, slow


@pytest.mark.parametrize("request_", [GET, PUT])
async def test_the_quicker_answer_counts(request_: bytes) -> None:
    """The other connection ends: its answer must serve nobody. The next request is served too."""
    async with known() as load:
        answer, took, slow = await slow_one(load, request_)
        assert answer.endswith(b"ok")
        assert took < 1.0
        (_, sent, won) = await counted(load)
        assert sent >= won >= 1  # one of the quick ones may have been slow
        assert b"x-fleetmesh-attempts: 2\r\n" in load.instances[1].asked[-1]
        assert b"attempts" not in slow.asked[-1]
        slow.delay = 0.0
        for _ in range(20):
            assert (await load.ask()).endswith(b"ok")


async def test_the_first_may_still_be_the_quicker() -> None:
    async with known() as load:
        load.instances[0].delay = 0.3
        load.instances[1].delay = 2.0
        while (await counted(load))[1] == 0 or len(load.instances[0].asked) < 31:
            answer = await load.ask()
            assert answer.endswith(b"ok")
        (_, sent, won) = await counted(load)
        assert 0 <= won <= sent


@pytest.mark.parametrize("why", ["post", "off", "route", "budget"])
async def test_what_is_not_hedged(why: str) -> None:
    say = hedged
    settings = None
    if why == "off":
        say = lambda api: replace(  # noqa: E731
            hedged(api), target=replace(hedged(api).target, tries=Tries())
        )
    elif why == "route":
        say = lambda api: replace(hedged(api), routes=(Route("all", hedge=False),))  # noqa: E731
    elif why == "budget":
        spent = UpstreamSettings(retry_budget=0.0, min_retries_per_second=0)
        settings = WorkerSettings(upstream=spent)
    async with known(say, settings) as load:
        answer, took, _ = await slow_one(load, POST if why == "post" else GET)
        assert answer.endswith(b"ok")
        assert took >= 3.0
        assert (await counted(load))[2] == 0


async def test_a_route_can_ask_for_it() -> None:
    say: Callable[[Upstream], Upstream] = lambda api: replace(  # noqa: E731
        hedged(api),
        target=replace(hedged(api).target, tries=Tries()),
        routes=(Route("all", hedge=True),),
    )
    async with known(say) as load:
        _, took, _ = await slow_one(load, GET)
        assert took < 1.0
        (count,) = (await load.worker.report()).retries
        assert (count.route, count.hedged >= count.won >= 1) == ("all", True)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"])
async def test_one_that_fails_leaves_the_request_to_the_other(answer: bytes) -> None:
    """Whichever it is: a failure is no answer while there may be one."""
    async with known() as load:
        slow, other = load.instances
        slow.delay, slow.answer = 1.5, answer
        other.delay = 2.0
        for _ in range(3):
            assert (await load.ask()).endswith(b"ok")
        assert (await counted(load))[1] > 0


async def test_a_tail_is_cut_within_the_budget() -> None:
    """One of a hundred answers takes half a second, at random."""
    draw = random.Random(5)

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.5 if draw.random() < 0.02 else 0.005)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    tails = []
    for say in (hedged, lambda api: api):
        async with instances(4, say=say, app=app) as load:
            done = await load.run(4.0, lanes=4)
            took = sorted(took for _, _, took in done)
            tails.append(took[int(len(took) * 0.99)])
            assert {status for _, status, _ in done} == {200}
            if say is hedged:
                (_, sent, won) = await counted(load)
                assert 0 < won <= sent <= 0.25 * len(done) + 100
    assert tails[0] < 0.3 < tails[1], tails
