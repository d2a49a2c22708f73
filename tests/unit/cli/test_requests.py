"""The last requests, for people and for programs."""

from __future__ import annotations

import json

import msgspec
from tests.support.record import record
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_agent import FakeAgent


def test_each_request_is_a_line(agent: FakeAgent, run: Run) -> None:
    refused = record(
        status=403, reason="denied", first_byte=None, endpoint="", route="", trace_id=""
    )
    answer = {"requests": msgspec.to_builtins([record(), refused])}
    agent.answers["GET", "/v1/requests"] = (200, answer)
    result = run("requests", "--limit", "5")
    assert result.exit_code == 0
    first, second = (line.split(" ", 1)[1] for line in result.stdout.splitlines())
    assert first == (
        "outbound web=>api GET /items/7 200 3.1/4.2ms 210/1024B route=items "
        "endpoint=api1/api-sidecar-proxy trace=4bf92f3577b34da6a3ce929d0e0e4736 id=7"
    )
    assert second == (
        "outbound web=>api GET /items/7 403:denied -/4.2ms 210/1024B "
        "route=- endpoint=- trace=- id=7"
    )


def test_json_is_the_agents(agent: FakeAgent, run: Run) -> None:
    answer = {"requests": msgspec.to_builtins([record()])}
    agent.answers["GET", "/v1/requests"] = (200, answer)
    assert json.loads(run("requests", "--json").stdout) == answer["requests"]


def test_an_agent_that_keeps_none_says_so(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET", "/v1/requests"] = (409, {"error": "no records are kept"})
    result = run("requests")
    assert type(result.exception).__name__ == "AgentRefusedError"
    assert str(result.exception) == "no records are kept"


def test_an_agent_of_another_version(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET", "/v1/requests"] = (200, {"requests": [{"when": 1}]})
    result = run("requests")
    assert result.exit_code == 2
    assert "of another version" in result.stderr
