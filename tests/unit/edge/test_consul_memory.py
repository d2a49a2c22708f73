"""What the Consul agent answers from its memory, against a server that is told what to say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import Answer
from fleetmesh.plan.chain import InstanceQuery

OLD: dict[str, Any] = {
    "Node": {"Node": "host", "Address": "10.0.0.1", "Datacenter": "dc1"},
    "Service": {"ID": "old", "Service": "old", "Port": 1},
    "Checks": [],
}
NEW = {**OLD, "Service": {"ID": "new", "Service": "new", "Port": 1}}


def asked(age: int, servers: bool) -> tuple[list[bool], Answer[Any]]:
    """Whether each question allowed an answer from memory, and the answer."""
    questions: list[bool] = []

    async def answer(request: web.Request) -> web.Response:
        remembered = "cached" in request.query
        questions.append(remembered)
        if not remembered and not servers:
            return web.Response(status=500, text="No known Consul servers")
        headers = {"X-Consul-Index": "7", **({"Age": str(age)} if remembered else {})}
        return web.json_response([OLD if remembered else NEW], headers=headers)

    async def run() -> Answer[Any]:
        app = web.Application()
        app.router.add_get("/v1/health/connect/api", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = ConsulClient(f"http://127.0.0.1:{runner.addresses[0][1]}")
        try:
            return await client.instances(InstanceQuery("api"))
        finally:
            await client.close()
            await runner.cleanup()

    answered = asyncio.run(run())
    return questions, answered


@pytest.mark.parametrize(
    ("age", "servers", "questions", "service", "told"),
    [
        (0, True, [True], "old", 0.0),
        (40, True, [True, False], "new", 0.0),
        (40, False, [True, False], "old", 40.0),
    ],
)
def test_memory_is_believed_when_nobody_knows_better(
    age: int, servers: bool, questions: list[bool], service: str, told: float
) -> None:
    """The Consul agent looks for its servers once a minute; we ask them at once."""
    found, answer = asked(age, servers)
    assert found == questions
    assert answer.value[0].service.id == service
    assert (answer.age, answer.index, answer.refusal) == (told, 7, "")
