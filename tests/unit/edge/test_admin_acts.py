"""Faults and the bypass over a Unix socket: what is asked, by whom, and what is refused."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from fleetmesh.edge.admin_acts import add_routes
from fleetmesh.edge.answers import body_of, json_of
from fleetmesh.edge.peer import who
from fleetmesh.model.fault import Fault, Order
from fleetmesh.model.problem import Problem
from fleetmesh.model.status import BypassStatus, CaptureStatus, FaultStatus

ME = f"{pwd.getpwuid(os.getuid()).pw_name} (uid {os.getuid()})"
SHOWN = FaultStatus("f1", "api", ("web",), 5.0, "…", "delay", 60.0)
PROBLEM = Problem("here", "not so", "But so")


class FakeAgent:
    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.refuses = False

    async def faults(self) -> Sequence[FaultStatus]:
        return (SHOWN,)

    async def inject(self, order: Order, by: str) -> Fault | list[Problem]:
        self.asked.append((order, by))
        return [PROBLEM] if self.refuses else Fault("f1", order.service, ("web",), 500)

    async def clear(self, fault_id: str, by: str) -> Sequence[str]:
        self.asked.append((fault_id, by))
        return ["f1"]

    async def bypass(self, seconds: float, by: str, why: str) -> CaptureStatus | Problem:
        self.asked.append((seconds, by, why))
        if self.refuses:
            return PROBLEM
        return CaptureStatus("bypassed", bypass=BypassStatus(seconds, 1.0, by, why))

    async def unbypass(self, by: str) -> bool:
        self.asked.append((by,))
        return True


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def client(agent: FakeAgent, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    add_routes(app, agent)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "admin.sock")
    await web.UnixSite(runner, path).start()
    connector = aiohttp.UnixConnector(path)
    async with aiohttp.ClientSession("http://agent", connector=connector) as session:
        yield session
    await runner.cleanup()


async def test_a_fault_is_injected_by_whom_the_kernel_says(
    client: aiohttp.ClientSession, agent: FakeAgent
) -> None:
    body = {"service": "api", "percent": 5, "delay": 2, "headers": [["x", None]]}
    async with client.post("/v1/faults/inject", json=body) as answer:
        assert answer.status == 200
        assert (await answer.json())["id"] == "f1"
    assert agent.asked == [(Order("api", 5.0, delay=2.0, headers=(("x", None),)), ME)]
    agent.refuses = True
    async with client.post("/v1/faults/inject", json=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"] == str(PROBLEM)
    async with client.get("/v1/faults") as answer:
        assert [one["id"] for one in (await answer.json())["faults"]] == ["f1"]
    async with client.post("/v1/faults/clear", json={"id": "f1"}) as answer:
        assert await answer.json() == {"cleared": ["f1"]}
    assert agent.asked[-1] == ("f1", ME)


@pytest.mark.parametrize("body", ["", "{}", '{"service": "api"}', '{"service": 1, "percent": 5}'])
async def test_what_is_no_fault(client: aiohttp.ClientSession, agent: FakeAgent, body: str) -> None:
    async with client.post("/v1/faults/inject", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"].startswith("not a fault: ")
    async with client.post("/v1/faults/clear", json={"id": 1}) as answer:
        assert answer.status == 400
    assert agent.asked == []


async def test_a_bypass_has_a_time_and_a_reason(
    client: aiohttp.ClientSession, agent: FakeAgent
) -> None:
    async with client.post("/v1/bypass/on", json={"seconds": 600, "why": " a\n b "}) as answer:
        assert answer.status == 200
        assert (await answer.json())["bypass"]["seconds_left"] == 600
    assert agent.asked == [(600.0, ME, "a b")]
    async with client.post("/v1/bypass/off") as answer:
        assert await answer.json() == {"ended": True}
    agent.refuses = True
    async with client.post("/v1/bypass/on", json={"seconds": 600, "why": "a"}) as answer:
        assert answer.status == 409


@pytest.mark.parametrize(
    "body",
    [
        {"why": "a"},
        {"seconds": 0, "why": "a"},
        {"seconds": 14401, "why": "a"},
        {"seconds": True, "why": "a"},
        {"seconds": "10", "why": "a"},
        {"seconds": 10},
        {"seconds": 10, "why": " "},
        {"seconds": 10, "why": "x" * 501},
    ],
)
async def test_a_bypass_without_an_end_or_a_reason(
    client: aiohttp.ClientSession, agent: FakeAgent, body: dict[str, Any]
) -> None:
    async with client.post("/v1/bypass/on", json=body) as answer:
        assert answer.status == 400
    assert agent.asked == []


def test_a_peer_without_a_name() -> None:
    class Transport:
        def __init__(self, sock: socket.socket | None) -> None:
            self._sock = sock

        def get_extra_info(self, _name: str) -> socket.socket | None:
            return self._sock

    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as tcp:
        assert who(Transport(ours)) == ME
        assert who(Transport(tcp)) == who(Transport(None)) == who(None) == "somebody unknown"


@pytest.mark.parametrize(
    ("body", "found"), [(b"", {}), (b'{"a": 1}', {"a": 1}), (b"[]", None), (b"{", None)]
)
async def test_bodies_are_json_objects(body: bytes, found: object) -> None:
    reader = aiohttp.StreamReader(mock.Mock(_reading_paused=False), 1 << 16)
    reader.feed_data(body)
    reader.feed_eof()
    request = make_mocked_request("POST", "/", payload=reader)
    if found is None:
        with pytest.raises(web.HTTPBadRequest):
            await body_of(request)
    else:
        assert await body_of(request) == found


def test_answers_are_json_of_structs_too() -> None:
    answer = json_of({"problem": PROBLEM}, 409)
    assert (answer.status, answer.content_type) == (409, "application/json")
    assert isinstance(answer.body, bytes)
    assert b'"remedy":"But so"' in answer.body
