from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from tests.support.record import record
from tests.unit.edge.test_admin_acts import FakeAgent as NoActs

from fleetmesh.edge import admin
from fleetmesh.model.explanation import Endpoints, Question, Routes
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.problem import Problem
from fleetmesh.model.record import Record
from fleetmesh.model.snapshot import Leaf, LocalService, Mode, Snapshot
from fleetmesh.model.status import CaptureStatus, ConsulStatus, Status
from fleetmesh.model.traffic import Protocol

SNAPSHOT = Snapshot(
    trust_domain="td",
    datacenter="dc1",
    node="n",
    roots=("ROOT",),
    services=(
        LocalService(
            "web",
            "web",
            "127.0.0.1",
            8080,
            Protocol.HTTP,
            Mode.STRICT,
            SpiffeId("td", "dc1", "web"),
            leaf=Leaf("01", 0.0, 1.0, "CHAIN", "SECRET"),
        ),
    ),
    upstreams=(),
)


class FakeAgent(NoActs):
    def __init__(self) -> None:
        super().__init__()
        self.serves: Snapshot | None = SNAPSHOT
        self.problems: Sequence[Problem] = ()
        self.asked: list[Any] = []
        self.kept: Sequence[Record] | None = None
        self.limits: list[int] = []
        self.questions: list[Question] = []
        self.held: list[tuple[object, ...]] = []

    async def status(self) -> Status:
        capture = CaptureStatus("applied")
        consul = ConsulStatus("http://c", True, 1.0)
        return Status("1", 1, 1.0, "n", "dc1", "td", 1, "d", consul, capture, (), (), ())

    async def records(self, limit: int) -> Sequence[Record] | None:
        self.limits.append(limit)
        return self.kept

    def snapshot(self) -> Snapshot | None:
        return self.serves

    async def explain(self, question: Question) -> Any:
        self.questions.append(question)
        return [Problem("--from", "is no service of this host")]

    async def routes(self, service: str) -> Any:
        return Routes(service, "http", ())

    async def endpoints(self, service: str) -> Any:
        return Endpoints(service, ())

    async def capture_view(self) -> Any:
        raise RuntimeError("the kernel is not readable")

    async def capture_apply(self, confirm_within: float | None) -> Any:
        self.asked.append(confirm_within)
        return CaptureStatus("unconfirmed", undo_in=confirm_within)

    async def capture_confirm(self) -> bool:
        return True

    async def capture_remove(self) -> Any:
        return CaptureStatus("removed")

    async def reload(self, token: str | None) -> Sequence[Problem]:
        self.asked.append(token)
        return self.problems

    def hold(self, service: str, kind: str, why: str, within: float) -> Sequence[str] | None:
        if service == "unwritable":
            raise OSError("the disk is full")
        self.held.append((service, kind, why, within))
        return ["web"] if service in {"", "web"} else None

    def release(self, service: str, kind: str) -> Sequence[str] | None:
        self.held.append((service, kind))
        return [] if service in {"", "web"} else None


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def client(agent: FakeAgent) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(admin.application(agent))) as client:
        yield client


async def test_snapshot_leaves_without_its_keys(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/v1/snapshot")
    text = await answer.text()
    assert "SECRET" not in text
    assert '"CHAIN"' in text


async def test_no_snapshot_yet_is_told(client: TestClient[Any, Any], agent: FakeAgent) -> None:
    agent.serves = None
    assert (await client.get("/v1/snapshot")).status == 503


async def test_status_is_json(client: TestClient[Any, Any]) -> None:
    assert (await (await client.get("/v1/status")).json())["consul"]["address"] == "http://c"


async def test_the_newest_requests(client: TestClient[Any, Any], agent: FakeAgent) -> None:
    agent.kept = (record(),)
    answer = await client.get("/v1/requests?limit=5")
    assert [each["path"] for each in (await answer.json())["requests"]] == ["/items/7"]
    assert agent.limits == [5]


async def test_requests_that_are_not_kept(client: TestClient[Any, Any]) -> None:
    assert (await client.get("/v1/requests")).status == 409


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1000000", "\u0665"])
async def test_a_wrong_limit(client: TestClient[Any, Any], agent: FakeAgent, limit: str) -> None:
    assert (await client.get("/v1/requests", params={"limit": limit})).status == 400
    assert agent.limits == []


async def test_a_question_is_read_and_its_problems_told(
    client: TestClient[Any, Any], agent: FakeAgent
) -> None:
    body = {"source": "web", "host": "api", "port": 80, "method": "GET", "headers": [["a", "b"]]}
    answer = await client.post("/v1/explain", json=body)
    assert answer.status == 400
    assert (await answer.json())["error"] == "--from: is no service of this host"
    assert agent.questions == [Question("web", "api", 80, "GET", headers=(("a", "b"),))]


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"source": 1, "host": "", "port": 1}'])
async def test_what_is_no_question_is_refused(
    client: TestClient[Any, Any], agent: FakeAgent, body: str
) -> None:
    answer = await client.post("/v1/explain", data=body)
    assert answer.status == 400
    assert (await answer.json())["error"].startswith("not a question: ")
    assert agent.questions == []


async def test_upstreams_are_listed_by_name(client: TestClient[Any, Any]) -> None:
    for kind in ("routes", "endpoints"):
        answer = await client.get(f"/v1/{kind}/api")
        assert (await answer.json())["service"] == "api"


@pytest.mark.parametrize(("body", "seconds"), [({"confirm": 5}, 5), ({}, None), (None, None)])
async def test_capture_is_applied_with_its_patience(
    client: TestClient[Any, Any], agent: FakeAgent, body: Any, seconds: float | None
) -> None:
    answer = (
        await client.post("/v1/capture/apply", json=body)
        if body is not None
        else (await client.post("/v1/capture/apply"))
    )
    assert answer.status == 200
    assert agent.asked == [seconds]


@pytest.mark.parametrize("body", ['{"confirm": -1}', '{"confirm": true}', "[]", "{", '"5"'])
async def test_wrong_bodies_are_refused_in_json(
    client: TestClient[Any, Any], agent: FakeAgent, body: str
) -> None:
    answer = await client.post("/v1/capture/apply", data=body)
    assert answer.status == 400
    assert "error" in await answer.json()
    assert agent.asked == []


async def test_reload_hands_a_token_over(client: TestClient[Any, Any], agent: FakeAgent) -> None:
    assert (await client.post("/v1/reload", json={"token": "secret"})).status == 200
    assert (await client.post("/v1/reload", json={"token": 1})).status == 400
    assert (await client.post("/v1/reload")).status == 200
    assert agent.asked == ["secret", None]


async def test_reload_tells_its_problems(client: TestClient[Any, Any], agent: FakeAgent) -> None:
    assert (await client.post("/v1/reload")).status == 200
    agent.problems = (Problem("agent.yaml:1: x", "wrong", "mend it"),)
    answer = await client.post("/v1/reload")
    assert answer.status == 400
    assert (await answer.json())["problems"][0]["remedy"] == "mend it"


async def test_defects_and_unknown_paths_answer_in_json(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/v1/capture")
    assert answer.status == 500
    assert "not readable" in (await answer.json())["error"]
    assert "error" in await (await client.get("/v1/nothing")).json()


async def test_services_are_held_and_released(
    client: TestClient[Any, Any], agent: FakeAgent
) -> None:
    body = {"service": "web", "kind": "drain", "why": " new \n disk", "within": 5}
    answer = await client.post("/v1/hold", json=body)
    assert (answer.status, await answer.json()) == (200, {"services": ["web"]})
    answer = await client.post("/v1/release", json={"kind": "maintenance"})
    assert (answer.status, await answer.json()) == (200, {"services": []})
    assert agent.held == [("web", "drain", "new disk", 5), ("", "maintenance")]


@pytest.mark.parametrize("path", ["/v1/hold", "/v1/release"])
async def test_a_service_that_is_not_declared(client: TestClient[Any, Any], path: str) -> None:
    answer = await client.post(path, json={"service": "nobody", "kind": "drain"})
    assert answer.status == 404
    assert (await answer.json())["error"] == 'no service "nobody" is declared on this host'


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "forever"},
        {"kind": ["drain"]},
        {"kind": "drain", "service": 1},
        {"kind": "drain", "why": 1},
        {"kind": "drain", "why": "x" * 501},
        {"kind": "drain", "within": -1},
        {"kind": "drain", "within": True},
        {"kind": "drain", "within": "soon"},
    ],
)
async def test_wrong_holds_are_refused(
    client: TestClient[Any, Any], agent: FakeAgent, body: Any
) -> None:
    answer = await client.post("/v1/hold", json=body)
    assert answer.status == 400
    assert "error" in await answer.json()
    assert agent.held == []


async def test_a_hold_that_cannot_be_kept_is_told(client: TestClient[Any, Any]) -> None:
    answer = await client.post("/v1/hold", json={"service": "unwritable", "kind": "drain"})
    assert answer.status == 500
    assert "the disk is full" in (await answer.json())["error"]
