"""Traces, request ids and access records through both hops, as application and operator see
them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio
from tests.support.app import Scripted
from tests.support.mesh import Mesh, mesh
from tests.support.worker import WorkerProcess, deny
from tests.unit.proxy.conftest import SETTINGS
from tests.unit.proxy.test_http import Client

from fleetmesh.model.record import Record
from fleetmesh.model.report import Direction
from fleetmesh.settings import (
    AccessLogMode,
    AccessLogSettings,
    TracingSettings,
    WorkerSettings,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[0-3])")
RECORDED = msgspec.structs.replace(
    SETTINGS,
    tracing=TracingSettings(sample_rate=1.0),
    access_log=AccessLogSettings(AccessLogMode.RING),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(app: Scripted) -> AsyncIterator[Mesh]:
    async with mesh(app, settings=RECORDED) as running:
        yield running


def fields_of(content: bytes) -> dict[str, list[str]]:
    """The fields that the application got, by lower-case name."""
    found: dict[str, list[str]] = {}
    for name, value in json.loads(content)["fields"]:
        found.setdefault(name.lower(), []).append(value)
    return found


async def seen(running: Mesh, *lines: str) -> dict[str, list[str]]:
    """The fields that the application gets of a request with `lines`, by lower-case name."""
    client = Client(*await running.call())
    status, _, content = await client.get("/any?secret=1", *lines)
    assert status == 200
    fields = fields_of(content)
    client.writer.close()
    return fields


async def last(worker: WorkerProcess, condition: Callable[[Record], bool] | None = None) -> Record:
    """Its newest record, once that is as it should be: an exchange may end after its answer."""
    async with asyncio.timeout(5):
        while True:
            records = await worker.records(1)
            if records and (condition is None or condition(records[-1])):
                return records[-1]
            await asyncio.sleep(0.02)


async def test_a_request_without_a_trace_gets_one(recorded: Mesh) -> None:
    """One trace on both hops, a span for each, and one id: the first hop's decision holds."""
    fields = await seen(recorded)
    (traceparent,) = fields["traceparent"]
    match = TRACEPARENT.fullmatch(traceparent)
    assert match is not None
    (request_id,) = fields["x-request-id"]
    here, there = await last(recorded.caller), await last(recorded.callee)
    assert here.trace_id == there.trace_id == match[1]
    assert here.span_id == there.parent_id
    assert there.span_id == match[2]
    assert here.span_id != there.span_id
    assert here.sampled
    assert there.sampled
    assert match[3] == "03"
    assert here.request_id == there.request_id == request_id
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab].*", request_id)


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_the_callers_trace_goes_on(recorded: Mesh, meshed: Mesh, flags: str) -> None:
    """Its decision too, at a rate of all and at one of few."""
    for running in (recorded, meshed):
        fields = await seen(
            running, f"traceparent: 00-{TRACE}-{SPAN}-{flags}", "tracestate: a=1", "X-Request-Id: 7"
        )
        match = TRACEPARENT.fullmatch(fields["traceparent"][0])
        assert match is not None
        assert (match[1], match[3]) == (TRACE, flags)
        assert match[2] != SPAN
        assert fields["tracestate"] == ["a=1"]
        assert fields["x-request-id"] == ["7"]
    here = await last(recorded.caller)
    assert (here.trace_id, here.parent_id) == (TRACE, SPAN)
    assert here.sampled == (flags == "01")


async def test_a_trace_of_b3_goes_on(meshed: Mesh) -> None:
    fields = await seen(meshed, f"b3: {TRACE}-{SPAN}-1")
    assert fields["b3"] == [f"{TRACE}-{SPAN}-1"]
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", fields["traceparent"][0])
    fields = await seen(meshed, f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}", "X-B3-Sampled: 0")
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", fields["traceparent"][0])


async def test_requests_on_one_connection_are_traces_of_their_own(meshed: Mesh) -> None:
    client = Client(*await meshed.call())
    told = [fields_of((await client.get("/any"))[2]) for _ in range(3)]
    assert len({fields["traceparent"][0][3:35] for fields in told}) == 3
    assert len({fields["x-request-id"][0] for fields in told}) == 3


async def test_without_tracing_nothing_is_added(app: Scripted) -> None:
    settings = WorkerSettings(tracing=TracingSettings(enabled=False))
    async with mesh(app, settings=settings) as running:
        assert not {"traceparent", "x-request-id"} & (await seen(running)).keys()
        fields = await seen(running, "traceparent: whatever", "tracestate: x", "X-Request-Id: a b")
    assert fields["traceparent"] == ["whatever"]
    assert fields["tracestate"] == ["x"]
    assert fields["x-request-id"] == ["a b"]


async def test_a_record_says_what_happened(recorded: Mesh) -> None:
    """Without the query string, which may hold secrets; bytes as the series count them."""
    before = await recorded.caller.report()
    await seen(recorded)
    record = await last(recorded.caller)
    assert record.direction is Direction.OUTBOUND
    assert (record.source, record.destination, record.route) == ("web", "api", "")
    assert (record.method, record.path, record.status) == ("GET", "/any", 200)
    assert (record.reason, record.endpoint) == ("", "node0/api")
    assert record.first_byte is not None
    assert 0 < record.first_byte <= record.duration
    after = await recorded.caller.report()
    assert record.sent == after.connections[0].bytes_sent - before.connections[0].bytes_sent > 100
    received = after.connections[0].bytes_received - before.connections[0].bytes_received
    assert record.received == received > 100
    there = await last(recorded.callee)
    assert (there.direction, there.endpoint) == (Direction.INBOUND, "api")


async def test_bytes_of_an_answer_under_way_are_in_the_report(recorded: Mesh) -> None:
    """Long before its record is written."""
    client = Client(*await recorded.call())
    before = (await recorded.caller.report()).connections[0].bytes_received
    client.send("GET", "/drip?n=20&gap=0.05")
    await client.head()
    count = len(await recorded.caller.records())
    async with asyncio.timeout(5):
        while (await recorded.caller.report()).connections[0].bytes_received == before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert len(await recorded.caller.records()) == count
    client.writer.close()


async def test_a_refused_request_is_recorded_with_its_reason(recorded: Mesh) -> None:
    client = Client(*await recorded.call())
    await recorded.publish(deny("web", "api"))
    assert (await client.get("/any"))[0] == 403
    await recorded.publish()
    there = await last(recorded.callee)
    assert (there.status, there.reason, there.endpoint) == (403, "denied", "")
    assert there.first_byte is None
    here = await last(recorded.caller)
    assert (here.status, here.reason) == (403, "")
    client.send("GET", "/\x7f")
    assert (await client.answer())[0] == 400
    record = await last(recorded.caller)
    assert (record.status, record.reason, record.trace_id) == (400, "malformed", "")


async def test_a_caller_that_leaves_is_recorded(recorded: Mesh) -> None:
    client = Client(*await recorded.call())
    client.send("POST", "/leaves", "Content-Length: 10", body=b"abc")
    await asyncio.sleep(0.2)
    client.writer.close()
    record = await last(recorded.caller, lambda record: record.path == "/leaves")
    assert (record.status, record.first_byte) == (499, None)
    assert record.endpoint == "node0/api"
