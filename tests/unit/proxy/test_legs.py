"""What routes, splits and service-defaults say of requests, through sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.called import called, routes
from tests.support.worker import listening, local_service, port_of, upstream

from fleetmesh.model.traffic import Endpoint, FieldChanges, Match, Retries, Route, Split, Upstream
from fleetmesh.settings import UpstreamSettings


async def test_header_changes_of_splits_and_routes() -> None:
    """Of the split first; the application sees them, and the client those of the answer."""

    async def ask(
        say: Callable[[Upstream], Upstream],
    ) -> tuple[dict[str, str], dict[str, str]]:
        async with called(say=say) as there:
            status, fields, content = await there.ask("GET /any", "X-Old: 1", "X-Both: client")
            assert status == 200
            seen: dict[str, str] = {}
            for key, value in json.loads(content)["fields"]:
                name = key.lower()
                seen[name] = f"{seen[name]}, {value}" if name in seen else value
            return seen, fields

    route = Route(
        "all",
        request_fields=FieldChanges(
            add=(("x-added", "a"),), set=(("X-Both", "route"),), remove=("x-old",)
        ),
        response_fields=FieldChanges(set=(("content-type", "text/x"),), add=(("x-answer", "1"),)),
    )
    seen, fields = await ask(routes(route))
    assert (seen["x-added"], seen["x-both"], "x-old" in seen) == ("a", "route", False)
    assert (fields["content-type"], fields["x-answer"]) == ("text/x", "1")
    assert "x-forwarded-client-cert" in seen

    split = FieldChanges(add=(("x-both", "split"), ("x-split", "s")), set=(("x-added", "s"),))
    seen, fields = await ask(
        lambda api: replace(
            api, routes=(replace(route, splits=(Split(10000, api.target, split, split),)),)
        )
    )
    assert (seen["x-added"], seen["x-both"], seen["x-split"]) == ("s, a", "route", "s")
    assert (fields["x-split"], fields["x-both"], fields["x-answer"]) == ("s", "split", "1")


async def test_timeout_of_a_route_holds_over_its_retries() -> None:
    retries = Retries(100, ("5xx",))
    async with called(say=routes(Route("all", timeout=1.0, retries=retries))) as there:
        began = time.monotonic()
        status, fields, _ = await there.ask("GET /status?code=503")
        assert (status, fields["x-fleetmesh-reason"]) == (504, "request_timeout")
        assert 1.0 <= time.monotonic() - began < 5
        (record,) = await there.caller.records()
        assert record.attempts > 3
        report = await there.caller.report()
        assert [(one.route, one.count) for one in report.retries] == [("all", record.attempts - 1)]


async def test_retries_are_kept_within_their_budget() -> None:
    """The application fails everything: it sees what they allow, and the client its answer."""
    app = Scripted()
    keep = UpstreamSettings(retry_budget=0.2, min_retries_per_second=0)
    retries = Retries(5, ("5xx",))
    async with called(app=app, say=routes(Route("all", retries=retries)), keep=keep) as there:
        for _ in range(50):
            assert (await there.ask("GET /status?code=503"))[0] == 503
        assert 50 < app.served <= 60
        (again,) = (await there.caller.report()).retries
        assert (again.count, again.spared) == (app.served - 50, 50)


async def test_request_that_another_route_takes_is_not_retried() -> None:
    app = Scripted()
    elsewhere = Route("a", Match(path_prefix="/a"), retries=Retries(3, ("5xx",)))
    async with called(app=app, say=routes(elsewhere)) as there:
        assert (await there.ask("GET /status?code=503"))[0] == 503
        assert app.served == 1
        (record,) = await there.caller.records()
        assert (record.attempts, record.route) == (1, "")


async def test_dead_endpoint_is_left_for_another_without_any_retries() -> None:
    async with called(dead=True) as there:
        for _ in range(4):
            assert (await there.ask("GET /any"))[0] == 200
        assert {one.endpoint for one in await there.caller.records()} != {"dead"}


async def test_connection_that_fails_is_tried_again_where_the_route_says_so() -> None:
    """One endpoint, nobody there at first."""
    with listening() as sock:
        port = port_of(sock)
    late = Endpoint("late", "127.0.0.1", port)
    lonely = replace(upstream("api", 1).target, id="lonely", endpoints=(late,))
    patient = Retries(60, ("connect-failure",))
    said = routes(
        Route("patient", Match(path_prefix="/any"), lonely, retries=patient),
        Route("once", Match(), lonely),
    )
    async with called(say=said) as there, asyncio.TaskGroup() as tasks:
        assert (await there.ask("GET /once"))[0] == 503
        waiting = tasks.create_task(there.ask("GET /any"))
        await asyncio.sleep(0.3)
        assert not waiting.done()

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)
            writer.close()

        async def to_sidecar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            theirs = await asyncio.open_connection("127.0.0.1", there.sidecar)
            await asyncio.gather(pipe(reader, theirs[1]), pipe(theirs[0], writer))

        server = await asyncio.start_server(to_sidecar, "127.0.0.1", port)
        assert (await waiting)[0] == 200
        server.close()


async def test_what_service_defaults_say_of_the_application() -> None:
    own = replace(local_service("api", 1, None), request_timeout=0.5, max_connections=1)
    async with called(own) as there, asyncio.TaskGroup() as tasks:
        status, fields, _ = await there.ask("GET /never")
        assert (status, fields["x-fleetmesh-reason"]) == (504, "request_timeout")
        status, _, content = await there.ask("GET /drip?n=20&gap=0.2")
        assert (status, content.endswith(b"0\r\n\r\n")) == (200, False)
        first = tasks.create_task(there.ask("GET /never"))
        await asyncio.sleep(0.2)
        status, fields, _ = await there.ask("GET /any")
        assert (status, fields["x-fleetmesh-reason"]) == (503, "overflow")
        await first
        assert (await there.ask("GET /any"))[0] == 200
