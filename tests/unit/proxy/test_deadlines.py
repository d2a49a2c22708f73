"""How long a request may take, what is left of that at each hop, and which attempt it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.called import called, routes
from tests.support.instances import instances

from fleetmesh.core.lane import DEFAULTS
from fleetmesh.model.traffic import Protocol, Retries, Route, Tries, Upstream
from fleetmesh.settings import HttpSettings, UpstreamSettings, WorkerSettings

LEFT = "x-fleetmesh-deadline-ms"


def tries(said: Tries) -> Callable[[Upstream], Upstream]:
    return lambda api: replace(api, target=replace(api.target, tries=said))


async def seen(
    *fields: str, say: Callable[[Upstream], Upstream] = lambda api: api
) -> dict[str, str]:
    """The fields that the application reads behind both agents."""
    async with called(say=say) as there:
        status, _, content = await there.ask("GET /any", *fields)
        assert status == 200
        return {name.lower(): value for name, value in json.loads(content)["fields"]}


async def test_what_is_left_is_lowered_at_each_hop() -> None:
    """Of the least that anybody has said; where nobody has, nothing is told."""
    assert LEFT not in await seen()
    assert 0 < int((await seen(f"{LEFT}: 5000"))[LEFT]) < 5000
    timeout = routes(Route("all", timeout=3.0))
    assert 0 < int((await seen(say=timeout))[LEFT]) < 3000
    assert 0 < int((await seen(f"{LEFT}: 1000", say=timeout))[LEFT]) < 1000
    assert 2000 < int((await seen(f"{LEFT}: 9000", say=timeout))[LEFT]) < 3000
    told = await seen("x-envoy-expected-rq-timeout-ms: 2500")
    assert (0 < int(told[LEFT]) < 2500, told["x-envoy-expected-rq-timeout-ms"]) == (True, "2500")


async def test_a_request_whose_time_is_over_is_not_sent_on() -> None:
    app = Scripted()
    async with called(app=app) as there:
        status, fields, _ = await there.ask("GET /any", f"{LEFT}: 0")
        assert (status, fields["x-fleetmesh-reason"]) == (504, "deadline_exceeded")
        assert app.served == 0
        (refused,) = (await there.caller.report()).refusals
        assert (refused.code, refused.count) == ("deadline_exceeded", 1)


async def test_the_time_bounds_the_answer_and_the_retries() -> None:
    """The caller says less than its route and the setting do."""
    again = routes(Route("all", timeout=10.0, retries=Retries(100, ("5xx",))))
    async with called(say=again) as there:
        for path in ("/never", "/status?code=503"):
            began = time.monotonic()
            status, fields, _ = await there.ask(f"GET {path}", f"{LEFT}: 700")
            assert status in (503, 504)
            reason = fields.get("x-fleetmesh-reason", "request_timeout")
            assert reason in ("request_timeout", "deadline_exceeded")  # whoever is first
            assert time.monotonic() - began < 3.0
        _, _, content = await there.ask("GET /drip?n=30&gap=0.2", f"{LEFT}: 700")
        assert not content.endswith(b"0\r\n\r\n")


async def test_a_caller_cannot_lengthen_what_holds() -> None:
    """An answer still has to begin in time."""
    settings = WorkerSettings(http=HttpSettings(request_timeout=0.6))
    async with instances(1, settings=settings) as load:
        load.instances[0].delay = 4.0
        began = time.monotonic()
        request = f"GET / HTTP/1.1\r\nHost: api\r\n{LEFT}: 60000\r\n\r\n"
        assert b" 504 " in await load.ask(request.encode())
        assert 0.6 <= time.monotonic() - began < 2.5


async def test_the_next_request_of_the_connection_has_its_own_time() -> None:
    async with instances(1) as load:
        load.instances[0].delay = 1.2
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        for line, status in ((f"{LEFT}: 300\r\n", b"504"), ("", b"200")):
            writer.write(f"GET / HTTP/1.1\r\nHost: api\r\n{line}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split(b" ")[1] == status
            length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()


async def test_which_attempt_it_is_nobody_else_can_say() -> None:
    async with instances(3, say=tries(Tries(retries=2))) as load:
        for one in load.instances:
            one.answer = b""
        request = b"GET / HTTP/1.1\r\nHost: api\r\nX-Fleetmesh-Attempts: 9\r\nX-Mine: 1\r\n\r\n"
        assert b" 503 " in await load.ask(request)
        heads = [head for one in load.instances for head in one.asked]
        said = sorted(
            head.partition(b"x-fleetmesh-attempts: ")[2].split(b"\r\n")[0] for head in heads
        )
        assert said == [b"", b"2", b"3"]
        assert all(b"X-Mine: 1" in head for head in heads)


async def test_the_application_is_told_by_its_own_agent() -> None:
    """What a peer says of it, the callee's agent passes on."""
    failing = 1

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal failing
        while head := await reader.readuntil(b"\r\n\r\n"):
            said = head.partition(b"x-fleetmesh-attempts: ")[2].split(b"\r\n")[0]
            left = head.partition(LEFT.encode() + b": ")[2].split(b"\r\n")[0]
            status = b"503 No" if failing else b"200 OK"
            failing = 0
            content = said + b"," + left
            writer.write(
                b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(content), content)
            )

    again = routes(Route("all", timeout=5.0, retries=Retries(1, ("5xx",))))
    async with called(app=app, say=again) as there:
        status, _, content = await there.ask("GET /")
        attempts, left = content.split(b",")
        assert (status, attempts) == (200, b"2")
        assert 0 < int(left) < 5000


@pytest.mark.parametrize("by_route", [True, False])
async def test_a_try_that_takes_too_long_is_given_up_for_another(by_route: bool) -> None:
    retries = Retries(1, ("reset",), per_try_timeout=0.3)
    say = routes(Route("all", retries=retries)) if by_route else tries(Tries(1, 0.3))
    async with instances(2, say=say) as load:
        slow = load.instances[0]
        slow.delay = 5.0
        while not slow.asked:
            began = time.monotonic()
            answer = await load.ask()
        assert answer.split(b" ")[1] == b"200"
        assert 0.3 <= time.monotonic() - began < 2.0
        load.instances[1].delay = 5.0
        began = time.monotonic()
        answer = await load.ask()
        assert b"504" in answer.split(b"\r\n")[0]
        assert b"request_timeout" in answer
        assert 0.6 <= time.monotonic() - began < 2.5


async def test_tries_are_kept_within_the_whole_time() -> None:
    retries = Retries(100, ("reset",), per_try_timeout=0.3)
    async with instances(2, say=routes(Route("all", timeout=1.0, retries=retries))) as load:
        for one in load.instances:
            one.delay = 5.0
        began = time.monotonic()
        assert b" 504 " in await load.ask()
        assert 0.9 <= time.monotonic() - began < 2.0
        assert 2 <= sum(len(one.asked) for one in load.instances) <= 4


@pytest.mark.parametrize("whole_host", [True, False])
async def test_nothing_lasts_longer_than_a_stream_may(whole_host: bool) -> None:
    """Neither an answer that begins nor one that does not, an upload nor a WebSocket."""
    keep = UpstreamSettings(stream_timeout=0.8) if whole_host else DEFAULTS
    say = (lambda api: api) if whole_host else tries(Tries(stream_timeout=0.8))
    async with called(keep=keep, say=say) as there:
        began = time.monotonic()
        status, fields, _ = await there.ask("GET /never")
        assert (status, fields["x-fleetmesh-reason"]) == (504, "stream_timeout")
        _, _, content = await there.ask("GET /drip?n=50&gap=0.1")
        assert not content.endswith(b"0\r\n\r\n")
        answer = await there.send(
            b"GET /upgrade HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi"
        )
        assert (answer.startswith(b"HTTP/1.1 101 "), answer[-2:]) == (True, b"hi")
        answer = await there.send(b"POST /any HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhi")
        assert b"stream_timeout" in answer
        assert 3.2 <= time.monotonic() - began < 7.0
        refusals = {one.code: one.count for one in (await there.caller.report()).refusals}
        assert refusals == {"stream_timeout": 4}


async def test_a_tcp_connection_ends_too() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    say: Callable[[Upstream], Upstream] = lambda api: replace(  # noqa: E731
        tries(Tries(stream_timeout=0.8))(api), protocol=Protocol.TCP
    )
    async with instances(1, say=say, app=echo) as load:
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        began = time.monotonic()
        for _ in range(40):
            writer.write(b"x")
            if not await reader.read(1):
                break
            await asyncio.sleep(0.1)
        assert 0.7 <= time.monotonic() - began < 3.0
        (refused,) = (await load.worker.report()).refusals
        assert refused.code == "stream_timeout"


async def test_a_stream_that_ends_in_time_is_nobodys_business() -> None:
    settings = WorkerSettings(upstream=UpstreamSettings(stream_timeout=0.5))
    async with instances(1, settings=settings) as load:
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        for _ in range(10):
            writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            await asyncio.sleep(0.1)
        writer.close()
