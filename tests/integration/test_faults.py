"""Faults and the bypass through a whole agent: a real Consul, a real kernel, unchanged programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_controller import APPLICATION, call, serving, through_the_mesh
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import needs_root, netns

pytestmark = [
    pytest.mark.consul,
    needs_root,
]
ABORT = {"service": "api", "percent": 100, "abort": 503, "why": "game day"}


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    with netns("faults") as space, inside(space.name):
        space.run("ip", "address", "add", "10.99.1.1/32", "dev", "lo")
        with running_consul(tmp_path / "consul") as server:
            yield server


@pytest.fixture
def mesh(consul: ConsulServer, tmp_path: Path) -> Iterator[Agent]:
    """An agent with two workers that captures `web` and serves `api`."""
    allow(consul, "nobody")
    with (
        subprocess.Popen([sys.executable, "-c", APPLICATION, "8000"]) as application,
        agent(tmp_path / "agent", consul={"address": consul.address}, workers=2) as one,
    ):
        one.declare("web", 8080, user="daemon", protocol="http")
        one.declare("api", 8000, user="games")
        one.start()
        one.eventually(lambda: serving(one), "registrations")
        assert one.ask("POST", "/v1/capture/apply", {"confirm": 0})[0] == 200
        one.eventually(through_the_mesh, "an answer through the mesh")
        yield one
        application.kill()


def allow(consul: ConsulServer, names: str) -> None:
    meta = {"fleetmesh-allow-faults": names}
    body = {"Kind": "service-defaults", "Name": "api", "Protocol": "http", "Meta": meta}
    consul.put("/v1/config", body)


def inject(mesh: Agent, **more: Any) -> str:
    """The fault's id, once the permission is known."""

    def injected() -> str:
        status, answer = mesh.ask("POST", "/v1/faults/inject", ABORT | more)
        return str(answer["id"]) if status == 200 else ""

    return str(mesh.eventually(injected, "the fault"))


def test_the_life_of_a_fault(consul: ConsulServer, mesh: Agent) -> None:
    """Refused, allowed, seen everywhere, withdrawn; and gone with the agent, however that ends."""
    status, answer = mesh.ask("POST", "/v1/faults/inject", ABORT)
    assert status == 400
    assert "service-defaults/api: Meta[fleetmesh-allow-faults]: names nobody" in answer["error"]

    allow(consul, "web")
    generation = mesh.status()["generation"]
    fault = inject(mesh, headers=[["x-user", "test"]])
    assert mesh.status()["generation"] > generation
    assert {call("daemon", "-H", "x-user: test")[0] for _ in range(10)} == {503}  # both workers
    assert call("daemon")[0] == 200
    (shown,) = mesh.status()["faults"]
    assert (shown["id"], shown["struck"], shown["callers"]) == (fault, 10, ["web"])
    assert shown["by"] == "root (uid 0)"
    question = {"source": "web", "host": "10.99.1.1", "port": 8000, "method": "GET"}
    headers = [["x-user", "test"]]
    explained = mesh.ask("POST", "/v1/explain", question | {"headers": headers})[1]
    assert f"fault {fault} is injected" in explained["notes"][0]
    page = mesh.page("/metrics")[1]
    labels = 'destination="api",kind="abort"'
    assert f'fleetmesh_faults_injected_total{{{labels},source="web"}} 10.0' in page
    assert f"fleetmesh_faults_active{{{labels}}} 1.0" in page

    os.kill(mesh.status()["workers"][0]["pid"], signal.SIGKILL)
    mesh.eventually(lambda: mesh.page("/readyz")[0] == 200, "a worker in its place")
    assert {call("daemon", "-H", "x-user: test")[0] for _ in range(10)} == {503}

    allow(consul, "nobody")
    mesh.eventually(lambda: not mesh.status()["faults"], "the end of the permission", 3)
    assert call("daemon", "-H", "x-user: test")[0] == 200

    allow(consul, "*")
    for how in (signal.SIGTERM, signal.SIGKILL):
        inject(mesh, seconds=3600)
        assert call("daemon")[0] == 503
        mesh.stop(how)
        mesh.start()
        mesh.eventually(through_the_mesh, "an answer")
        assert mesh.status()["faults"] == []
    log = mesh.log()
    assert f"fault {fault} injected, for 600 s by root (uid 0): game day" in log
    assert f"fault {fault} has ended, api does not allow it any more" in log
    assert "has ended, the agent stops" in log
    cache = b"".join(file.read_bytes() for file in (mesh.home / "state").iterdir())
    assert b"game day" not in cache


def test_a_fault_ends_although_its_controller_hangs(consul: ConsulServer, mesh: Agent) -> None:
    allow(consul, "*")
    inject(mesh, seconds=6)
    assert call("daemon")[0] == 503
    assert mesh.process is not None
    mesh.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(6.5)
        assert through_the_mesh()
    finally:
        mesh.process.send_signal(signal.SIGCONT)


def test_a_bypass_cuts_nothing_and_is_on_record(consul: ConsulServer, mesh: Agent) -> None:
    drip = [*("setpriv", "--reuid", "daemon", "--clear-groups", "curl", "-sN"), "-m", "60"]
    with subprocess.Popen(
        [*drip, "http://10.99.1.1:8000/drip"], stdout=subprocess.PIPE
    ) as download:
        assert download.stdout is not None
        assert download.stdout.read(5) == b"xxxxx"
        status, answer = mesh.ask("POST", "/v1/bypass/on", {"seconds": 600, "why": "is it us?"})
        assert (status, answer["state"]) == (200, "bypassed")
        assert (answer["bypass"]["by"], answer["bypass"]["why"]) == ("root (uid 0)", "is it us?")
        code, seen = call("daemon")
        assert code == 200
        assert "X-Forwarded-Client-Cert" not in seen["headers"]
        assert "fleetmesh_capture_applied 0.0" in mesh.page("/metrics")[1]
        assert mesh.ask("GET", "/v1/capture")[1]["difference"] == []
        assert download.stdout.read(200)
        assert mesh.ask("POST", "/v1/bypass/off")[1] == {"ended": True}
        assert through_the_mesh()
        assert download.stdout.read(200)
        download.kill()
    mesh.ask("POST", "/v1/bypass/on", {"seconds": 20, "why": "again"})
    mesh.stop(signal.SIGKILL)
    mesh.start()
    mesh.eventually(lambda: mesh.status()["capture"]["state"] == "bypassed", "the bypass")
    assert not through_the_mesh()
    mesh.eventually(through_the_mesh, "the end of the bypass", 30)
    assert mesh.status()["capture"]["bypass"] is None
    assert "by root (uid 0): is it us?" in mesh.log()
