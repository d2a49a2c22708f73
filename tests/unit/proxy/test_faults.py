"""Injected faults, through sockets: what the client sees, what is counted, what is left alone."""

from __future__ import annotations

import asyncio
import json
import time

from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.called import called, routes

from fleetmesh.model.fault import Fault
from fleetmesh.model.report import FaultCount
from fleetmesh.model.traffic import FieldChanges, FieldMatch, Match, Retries, Route
from fleetmesh.proxy.address import reset_at_end

ALWAYS = 10_000


def fault(**more: object) -> Fault:
    """Of all requests of web to api, for a minute."""
    given = {"id": "f1", "share": ALWAYS, "until": time.monotonic() + 60, **more}
    return Fault(service="api", callers=("web",), **given)  # type: ignore[arg-type]


async def test_an_aborted_request_never_reaches_the_application() -> None:
    app = Scripted()
    async with called(app=app) as there:
        await there.inject(fault(abort=418))
        status, fields, content = await there.ask("GET /any")
        assert status == 418
        assert fields["x-fleetmesh-fault"] == "abort;id=f1"
        assert fields["x-fleetmesh-reason"] == "fault"
        assert json.loads(content)["reason"] == "fault"
        assert app.served == 0
        report = await there.caller.report()
        assert report.faults == (FaultCount("f1", "web", "api", "abort", 1),)
        assert [(one.code, one.count) for one in report.refusals] == [("fault", 1)]
        assert [(one.status, one.count) for one in report.requests] == [(418, 1)]
        assert report.ejections == report.retries == ()

        await there.inject()
        status, fields, _ = await there.ask("GET /any")
        assert (status, "x-fleetmesh-fault" in fields) == (200, False)
        (over,) = (await there.caller.report()).faults
        assert over == FaultCount("", "web", "api", "abort", 1)


async def test_one_connection_before_during_and_after() -> None:
    """The refusal keeps it, and nothing of a fault is left on it."""
    async with called() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)

        async def ask() -> tuple[bytes, bool]:
            writer.write(b"GET /any HTTP/1.1\r\nHost: api\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            return head.split(b" ")[1], b"x-fleetmesh-fault" in head

        assert await ask() == (b"200", False)
        await there.inject(fault(abort=503))
        assert await ask() == (b"503", True)
        await there.inject(fault(delay=0.05))
        assert await ask() == (b"200", True)
        await there.inject()
        assert await ask() == (b"200", False)
        writer.close()


async def test_a_delayed_request_waits_and_its_answer_says_so() -> None:
    async with called() as there:
        await there.inject(fault(delay=0.5))
        began = time.monotonic()
        status, fields, content = await there.ask("POST /any", "Content-Length: 5\r\n\r\nhello")
        assert status == 200
        assert 0.5 <= time.monotonic() - began < 5
        assert fields["x-fleetmesh-fault"] == "delay;id=f1"
        assert json.loads(content)["length"] == 5
        (count,) = (await there.caller.report()).faults
        assert (count.kind, count.count) == ("delay", 1)


async def test_a_delay_is_a_part_of_the_time_that_a_request_has() -> None:
    app = Scripted()
    async with called(app=app, say=routes(Route("all", timeout=0.4))) as there:
        await there.inject(fault(delay=30.0))
        began = time.monotonic()
        status, fields, _ = await there.ask("GET /any")
        assert time.monotonic() - began < 5
        assert (status, fields["x-fleetmesh-reason"]) == (504, "request_timeout")
        assert fields["x-fleetmesh-fault"] == "delay;id=f1"
        assert app.served == 0


async def test_the_time_that_is_left_is_told_after_a_delay() -> None:
    async with called(say=routes(Route("all", timeout=5.0))) as there:
        await there.inject(fault(delay=1.0))
        _, _, content = await there.ask("GET /any")
        fields = {name.lower(): value for name, value in json.loads(content)["fields"]}
        assert 2000 < int(fields["x-fleetmesh-deadline-ms"]) <= 4000
        assert "x-fleetmesh-attempts" not in fields


async def test_a_delay_ends_with_its_client() -> None:
    app = Scripted()
    async with called(app=app) as there:
        await there.inject(fault(delay=0.5))
        _, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(b"GET /any HTTP/1.1\r\nHost: api\r\n\r\n")
        await asyncio.sleep(0.2)
        reset_at_end(writer.transport)
        writer.transport.abort()
        await asyncio.sleep(0.8)
        assert app.served == 0
        report = await there.caller.report()
        assert [one.status for one in report.requests] == [499]


async def test_a_delayed_body_is_not_read_beyond_what_is_kept() -> None:
    """The client is stopped: what it could send in that time is many times of what got in."""
    async with called() as there:
        await there.inject(fault(delay=1.0))
        _, writer = await asyncio.open_connection("127.0.0.1", there.port)
        size = 64 << 20
        writer.write(b"POST /any HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size)
        taken = 0
        while taken < size:
            writer.write(bytes(1 << 20))
            taken += 1 << 20
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except TimeoutError:
                break
        assert taken < size / 2
        writer.transport.abort()


async def test_whom_a_fault_strikes() -> None:
    """Requests with all its fields, of its callers, until its end."""
    header = FieldMatch("x-user", exact="test")
    async with called(say=routes(Route("r", Match(path_prefix="/any")))) as there:
        await there.inject(fault(abort=503, headers=(header, FieldMatch("x-more", present=True))))
        assert (await there.ask("GET /any", "x-user: test"))[0] == 200
        assert (await there.ask("GET /any", "x-user: other", "x-more: 1"))[0] == 200
        assert (await there.ask("GET /any", "x-user: test", "x-more: 1"))[0] == 503
        assert (await there.ask("GET /else", "x-user: test", "x-more: 1"))[0] == 503
        await there.inject(replace(fault(abort=503), callers=("shop",)))
        assert (await there.ask("GET /any"))[0] == 200
        await there.inject(replace(fault(abort=503), service="other"))
        assert (await there.ask("GET /any"))[0] == 200
        await there.inject(fault(abort=503, until=time.monotonic() + 3))
        assert (await there.ask("GET /any"))[0] == 503
        await asyncio.sleep(3.5)  # nobody tells the worker anything
        assert (await there.ask("GET /any"))[0] == 200


async def test_the_share_of_the_requests() -> None:
    async with called() as there:
        await there.inject(fault(abort=503, share=2500))
        statuses = [(await there.ask("GET /any"))[0] for _ in range(400)]
        assert 60 <= statuses.count(503) <= 140  # 100 and 4.6 standard deviations
        assert statuses.count(200) == 400 - statuses.count(503)


async def test_routes_hold_and_the_target_is_rewritten_once() -> None:
    route = Route(
        "all",
        Match(path_prefix="/old"),
        prefix_rewrite="/old/new",
        request_fields=FieldChanges(add=(("x-added", "1"),)),
    )
    async with called(say=routes(route)) as there:
        await there.inject(fault(delay=0.3))
        status, _, content = await there.ask("GET /old")
        assert status == 200
        seen = json.loads(content)
        assert seen["target"] == "/old/new"
        assert [value for name, value in seen["fields"] if name.lower() == "x-added"] == ["1"]


async def test_a_retry_suffers_nothing_more_and_an_abort_is_not_retried() -> None:
    app = Scripted()
    async with called(app=app, say=routes(Route("r", retries=Retries(2, ("5xx",))))) as there:
        await there.inject(fault(delay=0.1), fault(id="f2", abort=503))
        status, fields, _ = await there.ask("GET /status?code=503")
        assert (status, fields["x-fleetmesh-fault"]) == (503, "delay;id=f1")
        assert app.served == 3
        (count,) = (await there.caller.report()).faults
        assert (count.id, count.count) == ("f1", 1)
        await there.inject(fault(abort=503))
        assert (await there.ask("GET /any"))[0] == 503
        assert app.served == 3
        assert [one.count for one in (await there.caller.report()).retries] == [2]


async def test_a_drain_ends_faults() -> None:
    async with called() as there:
        await there.inject(fault(abort=503))
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(b"POST /any HTTP/1.1\r\nHost: api\r\nConte")
        await asyncio.sleep(0.2)
        leaving = asyncio.ensure_future(there.caller.drain(5))
        await asyncio.sleep(0.2)
        writer.write(b"nt-Length: 0\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(-1), 10)).startswith(b"HTTP/1.1 200 ")
        assert await leaving == 0
        writer.close()
