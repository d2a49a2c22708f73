"""The registrar against an agent of Consul's that does as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.plan.answers import AgentChecks, AgentServices, Check, ServiceInstance
from fleetmesh.plan.ports import Allocation
from fleetmesh.plan.registration import Wanted
from fleetmesh.process import registering
from fleetmesh.process.registering import Registrar
from fleetmesh.settings import ServiceSettings, Settings

WEB = ServiceSettings(name="web", port=80)
API = ServiceSettings(name="api", port=81)
WANTED = Wanted(
    Settings(address="10.0.0.1", services=(WEB, API)),
    Allocation({}, {"web": 21000, "api": 21001}),
    ready=frozenset({"web", "api"}),
)
ALL = {"web", "web-sidecar-proxy", "api", "api-sidecar-proxy"}


class FakeConsul:
    """`old` refuses modes as 1.8 does, `refused` are ids that it will not take, `gone` answers
    nothing."""

    token = None

    def __init__(self) -> None:
        self.token: str | None = None
        self.bodies: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.beats: list[str] = []
        self.old = self.gone = False
        self.refused: set[str] = set()

    def _answer(self) -> None:
        if self.gone:
            raise ConsulError("nobody listens")

    async def agent_services(self) -> AgentServices:
        self._answer()
        convert = msgspec.convert
        return {
            key: convert({**body, "Service": body["Name"]}, ServiceInstance)
            for key, body in self.bodies.items()
        }

    async def agent_checks(self) -> AgentChecks:
        self._answer()
        return {
            check["CheckID"]: Check("passing", check["CheckID"], key)
            for key, body in self.bodies.items()
            for check in body.get("Checks", ())
        }

    async def register(self, body: dict[str, Any]) -> None:
        self._answer()
        self.writes.append(f"+{body['ID']}")
        if self.old and "Mode" in body.get("Proxy", {}):
            raise ConsulError('400 Request decode failed: json: unknown field "Mode"', 400)
        if body["ID"] in self.refused:
            raise ConsulError("400 no", 400)
        self.bodies[body["ID"]] = body

    async def deregister(self, service_id: str) -> None:
        self._answer()
        self.writes.append(f"-{service_id}")
        if service_id in self.refused:
            raise ConsulError("403 Permission denied", 403)
        self.bodies.pop(service_id, None)

    async def beat(self, check_id: str) -> None:
        self._answer()
        self.beats.append(check_id)
        if all(
            check["CheckID"] != check_id
            for body in self.bodies.values()
            for check in body["Checks"]
        ):
            raise ConsulError("500 does not have associated TTL", 500)


@pytest.fixture
def consul() -> FakeConsul:
    return FakeConsul()


@pytest.fixture
async def registrar(
    consul: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Registrar]:
    for name in ("INTERVAL", "RETRY", "HEARTBEAT"):
        monkeypatch.setattr(registering, name, 0.01)
    registrar = Registrar(cast("ConsulClient", consul), lambda: None, lambda: None)
    registrar.want(WANTED)
    yield registrar
    await registrar.close()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_all_is_registered_once(consul: FakeConsul, registrar: Registrar) -> None:
    registrar.start()
    await eventually(lambda: registrar.registered == {"web", "api"})
    await eventually(lambda: len(consul.beats) > 6)
    assert consul.writes == ["+web", "+web-sidecar-proxy", "+api", "+api-sidecar-proxy"]
    assert consul.bodies["web-sidecar-proxy"]["Proxy"]["Mode"] == "direct"
    assert registrar.problems == ()


async def test_an_old_consul_is_asked_once_and_again_after_it_was_gone(
    consul: FakeConsul, registrar: Registrar
) -> None:
    """It may come back as another version."""
    consul.old = True
    registrar.start()
    await eventually(lambda: registrar.registered == {"web", "api"})
    assert consul.writes.count("+web-sidecar-proxy") == 2
    assert "Mode" not in consul.bodies["web-sidecar-proxy"]["Proxy"]
    assert registrar.problems == ()
    consul.gone = True
    await eventually(lambda: registrar.error)
    consul.gone = consul.old = False
    await eventually(lambda: "Mode" in consul.bodies["web-sidecar-proxy"]["Proxy"])
    await eventually(lambda: not registrar.error)


async def test_what_was_lost_comes_back(consul: FakeConsul, registrar: Registrar) -> None:
    registrar.start()
    await eventually(lambda: registrar.registered == {"web", "api"})
    consul.bodies.clear()
    await eventually(lambda: set(consul.bodies) == ALL)
    assert not registrar.error


async def test_a_refusal_concerns_that_registration_alone(
    consul: FakeConsul, registrar: Registrar
) -> None:
    consul.refused = {"web", "web-sidecar-proxy"}
    registrar.start()
    await eventually(lambda: registrar.registered == {"api"})
    assert [problem.path for problem in registrar.problems] == [
        "consul: registration of web",
        "consul: registration of web-sidecar-proxy",
    ]
    assert registrar.error == ""
    consul.refused = set()
    await eventually(lambda: registrar.registered == {"web", "api"})
    assert registrar.problems == ()


async def test_a_stale_registration_that_cannot_be_removed_is_told(
    consul: FakeConsul, registrar: Registrar
) -> None:
    meta = {"managed-by": "fleetmesh"}
    consul.bodies["old"] = {"ID": "old", "Name": "old", "Meta": meta, "Checks": []}
    consul.refused = {"old"}
    registrar.start()
    await eventually(lambda: registrar.problems)
    assert "is not deregistered: 403" in registrar.problems[0].rule
    assert registrar.registered == {"web", "api"}


async def test_an_adopted_service_is_never_written(
    consul: FakeConsul, registrar: Registrar
) -> None:
    registrar.start()
    await eventually(lambda: registrar.registered == {"web", "api"})
    meta = {"managed-by": "nomad", "version": "v2"}
    theirs = {"ID": "web", "Name": "web", "Port": 80, "Meta": meta, "Checks": []}
    consul.bodies["web"] = theirs
    consul.writes.clear()
    await eventually(lambda: registrar.adopted == {"web": "web"})
    await eventually(lambda: "+web-sidecar-proxy" in consul.writes)
    await registrar.close()
    assert consul.bodies["web"] is theirs
    assert "+web" not in consul.writes
    assert "-web" not in consul.writes


async def test_the_check_of_another_tool_is_left_to_it_and_told(
    consul: FakeConsul, registrar: Registrar
) -> None:
    check = {"CheckID": "web-sidecar-proxy:alias", "Name": "theirs"}
    consul.bodies["db"] = {"ID": "db", "Name": "db", "Checks": [check]}
    registrar.start()
    await eventually(lambda: registrar.registered == {"api"})
    (problem,) = registrar.problems
    assert problem.path == "consul: registration of web-sidecar-proxy"
    assert "service db" in problem.rule
    assert "+web-sidecar-proxy" not in consul.writes
