"""What Consul's users see of a host: services, sidecars, checks, holds, and who owns what."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import Netns, needs_root, netns

pytestmark = [
    pytest.mark.consul,
    needs_root,
]


@pytest.fixture
def space() -> Iterator[Netns]:
    with netns("registration") as space, inside(space.name):
        space.run("ip", "address", "add", "10.99.1.1/32", "dev", "lo")
        yield space


@pytest.fixture
def consul(space: Netns, tmp_path: Path) -> Iterator[ConsulServer]:
    with running_consul(tmp_path / "consul") as server:
        yield server


@pytest.fixture
def mesh(consul: ConsulServer, tmp_path: Path) -> Iterator[Agent]:
    """An agent with `web` and `api`, not started."""
    with agent(tmp_path / "agent", consul={"address": consul.address}) as one:
        one.declare("web", 8080, user="daemon", upstreams=["api", "db"])
        one.declare("api", 8000, user="games", tags=["blue"], meta={"version": "v1"}, weight=3)
        yield one


@pytest.fixture
def application(space: Netns) -> Iterator[None]:
    """Something at the port of api."""
    with socket.create_server(("0.0.0.0", 8000)):
        yield


def services(consul: ConsulServer) -> dict[str, Any]:
    return dict(consul.get("/v1/agent/services"))


def checks(consul: ConsulServer, service_id: str) -> dict[str, str]:
    """Status by check id."""
    found = consul.get("/v1/agent/checks").values()
    return {c["CheckID"]: c["Status"] for c in found if c["ServiceID"] == service_id}


def health(consul: ConsulServer, service: str, kind: str = "connect") -> set[str]:
    """What callers hear of the instances of a service."""
    (instance,) = consul.get(f"/v1/health/{kind}/{service}")
    return {check["Status"] for check in instance["Checks"]}


def all_registered(mesh: Agent) -> bool:
    return all(service["registered"] for service in mesh.status()["services"])


def run(mesh: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A verb of the command, on this agent's socket."""
    command = [sys.executable, "-c", "from fleetmesh.cli import main; main()", *arguments]
    command += ["--socket", str(mesh.socket)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def started(mesh: Agent) -> Agent:
    mesh.start()
    mesh.eventually(lambda: all_registered(mesh), "registrations")
    return mesh


FOREIGN = {
    "ID": "api-by-hand",
    "Name": "api",
    "Port": 8000,
    "Tags": ["terraform"],
    "Meta": {"version": "v7", "managed-by": "terraform"},
    "Weights": {"Passing": 9, "Warning": 2},
    "Checks": [{"CheckID": "theirs", "Name": "theirs", "TTL": "1h", "Status": "passing"}],
}


def register(consul: ConsulServer, definition: dict[str, Any] = FOREIGN, **changes: Any) -> None:
    consul.put("/v1/agent/service/register", {**definition, **changes})


def test_service_and_sidecar_stand_in_consul_with_all_that_was_declared(
    application: None, consul: ConsulServer, mesh: Agent
) -> None:
    mesh.declare(
        "api",
        8000,
        user="games",
        tags=["blue"],
        meta={"version": "v1"},
        weight=3,
        warning_weight=0,
        checks=[{"name": "port", "tcp": "127.0.0.1:8000", "interval": "1s"}],
    )
    started(mesh)
    there = services(consul)
    for name in ("api", "api-sidecar-proxy"):
        assert there[name]["Tags"] == ["blue"]
        assert there[name]["Meta"]["version"] == "v1"
        assert there[name]["Weights"] == {"Passing": 3, "Warning": 0}
    mesh.eventually(lambda: checks(consul, "api") == {"service:api": "passing"}, "its own check")
    sidecar = checks(consul, "api-sidecar-proxy")
    kinds = {check_id.rpartition(":")[2]: status for check_id, status in sidecar.items()}
    assert kinds == dict.fromkeys(("listening", "alias", "heartbeat"), "passing")
    proxy = there["web-sidecar-proxy"]["Proxy"]
    assert [u["DestinationName"] for u in proxy["Upstreams"]] == ["api", "db"]
    assert {u["LocalBindPort"] for u in proxy["Upstreams"]} == {
        mesh.service("web")["outbound_port"]
    }
    assert mesh.status()["problems"] == []


def test_a_change_keeps_ids_and_the_health_of_checks(
    application: None, consul: ConsulServer, mesh: Agent
) -> None:
    check = {"name": "port", "tcp": "127.0.0.1:8000", "interval": "30s", "status": "passing"}
    mesh.declare("api", 8000, user="games", checks=[check])
    started(mesh)
    before = set(services(consul))
    mesh.declare("api", 8000, user="games", checks=[check], tags=["green"], weight=7)
    assert mesh.ask("POST", "/v1/reload")[0] == 200
    mesh.eventually(lambda: services(consul)["api"]["Tags"] == ["green"], "the new tag")
    assert set(services(consul)) == before
    assert health(consul, "api") == {"passing"}


def test_a_consul_agent_that_lost_its_data_has_all_of_it_back_within_seconds(
    consul: ConsulServer, mesh: Agent
) -> None:
    """Killed, and started with nothing, faster than a heartbeat comes round. The agent of ours is
    not restarted."""
    started(mesh)
    assert run(mesh, "maintenance", "on", "api").returncode == 0
    mesh.eventually(lambda: "critical" in health(consul, "api"), "maintenance")
    before = {key: one["Meta"]["fleetmesh-digest"] for key, one in services(consul).items()}
    consul.stop()
    consul.start()
    assert services(consul) == {}
    begin = time.monotonic()

    def back() -> bool:
        there = services(consul)
        return {key: one["Meta"]["fleetmesh-digest"] for key, one in there.items()} == before

    mesh.eventually(back, "all registrations", 8)
    took = time.monotonic() - begin
    print(f"all registrations were back after {took:.2f} s")
    assert took < 8
    assert checks(consul, "api") == {"_service_maintenance:api": "critical"}


def test_one_lost_registration_or_check_is_put_back(consul: ConsulServer, mesh: Agent) -> None:
    started(mesh)
    consul.put("/v1/agent/service/deregister/web")
    mesh.eventually(lambda: "web" in services(consul), "the registration", 5)
    consul.put("/v1/agent/check/deregister/web-sidecar-proxy:alias")
    mesh.eventually(
        lambda: "web-sidecar-proxy:alias" in checks(consul, "web-sidecar-proxy"), "the check", 5
    )


def test_a_renamed_service_leaves_nothing_behind_and_takes_nothing_of_others(
    consul: ConsulServer, mesh: Agent
) -> None:
    started(mesh)
    register(consul, ID="web-old", Name="web-old", Checks=[])
    (mesh.services / "web.yaml").unlink()
    mesh.declare("front", 8080, user="daemon")
    assert mesh.ask("POST", "/v1/reload")[0] == 200
    wanted = {"front", "front-sidecar-proxy", "api", "api-sidecar-proxy", "web-old"}
    mesh.eventually(lambda: set(services(consul)) == wanted, "the new registrations")


def test_what_consul_refuses_stands_in_nobody_elses_way(consul: ConsulServer, mesh: Agent) -> None:
    """A script check, where Consul allows none: told by name, and web is registered."""
    mesh.declare("api", 8000, checks=[{"name": "x", "args": ["true"], "interval": "5s"}])
    mesh.start()
    mesh.eventually(lambda: mesh.service("web")["registered"], "web")
    (problem,) = mesh.eventually(lambda: mesh.status()["problems"], "the problem")
    assert problem["path"] == "consul: registration of api"
    assert "Scripts are disabled" in problem["rule"]
    assert mesh.status()["consul"]["reachable"]


# Adoption.


def same_as(definition: dict[str, Any], there: dict[str, Any]) -> bool:
    keys = ("ID", "Port", "Tags", "Meta", "Weights")
    return all(there[key] == definition[key] for key in keys)


def test_a_registration_of_another_tool_is_adopted_and_left_as_it_is(
    consul: ConsulServer, mesh: Agent
) -> None:
    """Only the sidecar is ours; it follows, and goes without a trace on the other's."""
    register(consul)
    index = consul.get("/v1/agent/service/api-by-hand")["ContentHash"]
    started(mesh)
    assert mesh.service("api")["adopted"] == "api-by-hand"
    assert "adopted [api-by-hand]" in run(mesh, "status").stdout
    assert set(services(consul)) == {
        *("api-by-hand", "api-sidecar-proxy"),
        *("web", "web-sidecar-proxy"),
    }
    sidecar = services(consul)["api-sidecar-proxy"]
    assert sidecar["Proxy"]["DestinationServiceID"] == "api-by-hand"
    assert sidecar["Proxy"]["DestinationServiceName"] == "api"
    assert sidecar["Weights"] == FOREIGN["Weights"]
    assert sidecar["Tags"] == ["terraform", "blue"]
    assert (sidecar["Meta"]["version"], sidecar["Meta"]["managed-by"]) == ("v7", "fleetmesh")
    consul.put("/v1/agent/check/warn/theirs")
    mesh.eventually(lambda: "warning" in health(consul, "api"), "their health at our sidecar")
    consul.put("/v1/agent/check/pass/theirs")

    register(consul, Tags=["other"], Weights={"Passing": 5, "Warning": 5})

    def followed() -> bool:
        there = services(consul)["api-sidecar-proxy"]
        return bool(there["Tags"] == ["other", "blue"] and there["Weights"]["Passing"] == 5)

    mesh.eventually(followed, "what the other tool changed", 5)
    register(consul)
    mesh.eventually(lambda: services(consul)["api-sidecar-proxy"]["Weights"]["Passing"] == 9, "it")
    assert mesh.stop() == 0
    for service_id, service in services(consul).items():  # as the role's uninstall does
        if service["Meta"].get("managed-by") == "fleetmesh":
            consul.put(f"/v1/agent/service/deregister/{service_id}")
    assert set(services(consul)) == {"api-by-hand"}
    assert same_as(FOREIGN, services(consul)["api-by-hand"])
    assert consul.get("/v1/agent/service/api-by-hand")["ContentHash"] == index
    assert checks(consul, "api-by-hand") == {"theirs": "passing"}


def test_ours_gives_way_to_another_tools_and_comes_back_after_it(
    consul: ConsulServer, mesh: Agent
) -> None:
    """With another id beside ours, and with the same id over ours."""
    started(mesh)
    assert "api" in services(consul)
    register(consul)
    mesh.eventually(lambda: "api" not in services(consul), "ours to give way", 5)
    assert mesh.service("api")["registered"]
    consul.put("/v1/agent/service/deregister/api-by-hand")
    mesh.eventually(lambda: "api" in services(consul), "ours", 5)
    assert mesh.service("api")["adopted"] == ""

    register(consul, ID="api")
    mesh.eventually(lambda: mesh.service("api")["adopted"] == "api", "the adoption", 5)
    time.sleep(3)
    assert same_as({**FOREIGN, "ID": "api"}, services(consul)["api"])


def test_a_file_of_consuls_own_is_adopted(space: Netns, tmp_path: Path) -> None:
    """As an operator has it in /etc/consul.d; Consul loads it again when it starts anew."""
    config = {"services": [{"id": "api", "name": "api", "port": 8000, "tags": ["file"]}]}
    with (
        running_consul(tmp_path / "consul", config) as consul,
        agent(tmp_path / "agent", consul={"address": consul.address}) as mesh,
    ):
        mesh.declare("api", 8000, user="games")
        started(mesh)
        assert mesh.service("api")["adopted"] == "api"
        consul.stop()
        consul.start()
        mesh.eventually(lambda: "api-sidecar-proxy" in services(consul), "the sidecar", 8)
        assert services(consul)["api"]["Tags"] == ["file"]
        assert services(consul)["api"]["Meta"] == {}


def test_ids_that_others_have_are_left_to_them_and_told(consul: ConsulServer, mesh: Agent) -> None:
    register(consul, ID="web", Name="website", Checks=[])
    register(
        consul,
        {"Kind": "connect-proxy", "Name": "envoy", "Port": 20000},
        ID="api-sidecar-proxy",
        Proxy={"DestinationServiceName": "api"},
    )
    mesh.start()
    mesh.eventually(lambda: "api" in services(consul), "api")
    problems = mesh.eventually(lambda: mesh.status()["problems"], "the problems")
    assert sorted(problem["rule"].partition(" as ")[0] for problem in problems) == [
        'ID "api-sidecar-proxy" is in Consul',
        'ID "web" is in Consul',
    ]
    assert services(consul)["web"]["Service"] == "website"
    assert services(consul)["api-sidecar-proxy"]["Port"] == 20000
    assert "web-sidecar-proxy" not in services(consul)


# Maintenance and drain.


def test_maintenance_takes_a_service_out_and_outlasts_a_restart(
    consul: ConsulServer, mesh: Agent
) -> None:
    started(mesh)
    done = run(mesh, "maintenance", "on", "api", "--why", "new  disk")
    assert (done.returncode, done.stdout) == (0, "api is in maintenance\n")
    mesh.eventually(lambda: "critical" in health(consul, "api"), "the sidecar is out", 2)
    assert "critical" in health(consul, "api", "service")
    shown = subprocess.run(
        [consul.binary, "maint", f"-http-addr={consul.address}"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "api" in shown
    assert "fleetmesh: new disk" in shown
    assert mesh.service("api")["hold"]["phase"] == "maintenance"
    assert "service api: is in maintenance (new disk)" in run(mesh, "status").stdout

    assert mesh.stop() == 0
    mesh.start()
    mesh.eventually(lambda: all_registered(mesh), "registrations")
    assert mesh.service("api")["hold"]["why"] == "new disk"
    assert "critical" in health(consul, "api")
    done = run(mesh, "maintenance", "off", "api")
    assert (done.returncode, done.stdout) == (0, "api: no longer in maintenance\n")
    mesh.eventually(lambda: health(consul, "api") == {"passing"}, "api is back", 2)
    assert run(mesh, "maintenance", "off", "api").returncode == 1
    assert run(mesh, "maintenance", "on", "nobody").returncode == 2


def test_maintenance_that_others_began_is_not_ended_by_a_change_of_ours(
    consul: ConsulServer, mesh: Agent
) -> None:
    started(mesh)
    consul.put("/v1/agent/service/maintenance/api?enable=true&reason=theirs")
    mesh.declare("api", 8000, user="games", tags=["new"])
    assert mesh.ask("POST", "/v1/reload")[0] == 200
    mesh.eventually(lambda: services(consul)["api"]["Tags"] == ["new"], "the tag")
    assert checks(consul, "api") == {"_service_maintenance:api": "critical"}
    consul.put("/v1/agent/service/maintenance/api?enable=false")
    time.sleep(3)
    assert checks(consul, "api") == {}


def test_an_adopted_service_is_held_by_its_sidecar_alone(consul: ConsulServer, mesh: Agent) -> None:
    register(consul)
    started(mesh)
    assert run(mesh, "maintenance", "on", "api").returncode == 0
    mesh.eventually(lambda: "critical" in health(consul, "api"), "the sidecar is out", 2)
    assert checks(consul, "api-by-hand") == {"theirs": "passing"}


SLOW = """
import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(10)
        self.send_response(200 if "X-Forwarded-Client-Cert" in self.headers else 299)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", 8000), Slow).serve_forever()
"""


@pytest.fixture
def slow(space: Netns, consul: ConsulServer, mesh: Agent) -> Iterator[Agent]:
    """A mesh whose api answers /slow after ten seconds."""
    consul.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
    with subprocess.Popen([sys.executable, "-c", SLOW]) as process:
        started(mesh)
        mesh.eventually(lambda: curl("/") == 200, "an answer through the mesh")
        yield mesh
        process.kill()


def curl(path: str) -> int:
    """The status of api's answer to web, 299 when it did not come through the mesh."""
    command = ["setpriv", "--reuid", "daemon", "--clear-groups", "curl", "-s", "-m", "20"]
    command += ["-o", "/dev/null", "-w", "%{http_code}", f"http://10.99.1.1:8000{path}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def test_a_drain_warns_then_turns_away_then_waits_then_is_maintenance(
    consul: ConsulServer, slow: Agent
) -> None:
    mesh = slow
    seen: list[str] = []
    answers: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            worst = sorted(health(consul, "api") - {"passing"})
            kinds = ",".join(key.rpartition(":")[0] or key for key in checks(consul, "api"))
            line = f"{worst[0] if worst else 'passing'} {kinds}"
            if not seen or seen[-1] != line:
                seen.append(line)
            time.sleep(0.05)

    threads = [
        threading.Thread(target=watch),
        threading.Thread(target=lambda: answers.append(curl("/slow"))),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    begin = time.monotonic()
    done = run(mesh, "drain", "api", "--within", "30", "--why", "kernel")
    took = time.monotonic() - begin
    stop.set()
    for thread in threads:
        thread.join()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "api: draining, 1 under way" in lines
    assert lines[-1] == "api: drained"
    assert answers == [200]
    assert 4 < took < 25
    phases = [line.split()[0] for line in seen]
    assert phases.index("warning") < phases.index("critical")
    assert curl("/") == 503
    assert checks(consul, "api") == {"_service_maintenance:api": "critical"}
    assert "drained" in run(mesh, "status").stdout

    assert mesh.stop() == 0
    mesh.start()
    mesh.eventually(lambda: all_registered(mesh), "registrations")
    assert mesh.service("api")["hold"]["left"] == 0
    assert run(mesh, "undrain", "api").returncode == 0
    mesh.eventually(lambda: curl("/") == 200, "api is back", 5)
    assert mesh.service("api")["hold"] is None


def test_a_drain_ends_when_its_time_is_over(consul: ConsulServer, slow: Agent) -> None:
    thread = threading.Thread(target=curl, args=("/slow",))
    thread.start()
    time.sleep(0.5)
    done = run(slow, "drain", "api", "--within", "3")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "api: drained, 1 still under way were ended"
    assert checks(consul, "api") == {"_service_maintenance:api": "critical"}
    thread.join()


TCP_CLIENT = """
import socket, sys
with socket.create_connection(("10.99.1.1", 8000), 5) as connection:
    connection.settimeout(30)
    for line in sys.stdin:
        connection.sendall(line.encode())
        data = connection.recv(100)
        if not data:
            break
        print(data.decode(), end="", flush=True)
"""
ECHO = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("", 8000), Echo).serve_forever()
"""


def test_a_relayed_connection_is_under_way_and_ends_with_the_drain(
    consul: ConsulServer, mesh: Agent
) -> None:
    with subprocess.Popen([sys.executable, "-c", ECHO]) as application:
        started(mesh)
        mesh.eventually(lambda: len(mesh.status()["upstreams"]) == 2, "upstreams")
        command = ["setpriv", "--reuid", "daemon", "--clear-groups", sys.executable, "-c"]
        with subprocess.Popen(
            [*command, TCP_CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None

            def echoed(word: str) -> str:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(f"{word}\n")
                client.stdin.flush()
                return client.stdout.readline().strip()

            assert echoed("before") == "before"
            assert run(mesh, "drain", "api", "--within", "5", "--no-wait").returncode == 0
            time.sleep(1)
            assert echoed("meanwhile") == "meanwhile"
            done = run(mesh, "drain", "api", "--within", "5")
            assert done.stdout.splitlines()[-1] == "api: drained, 1 still under way were ended"
            assert echoed("after") == ""
        application.kill()


def test_a_drain_goes_on_after_a_restart_of_the_agent(consul: ConsulServer, mesh: Agent) -> None:
    started(mesh)
    assert run(mesh, "drain", "--host", "--within", "60", "--no-wait").returncode == 0
    assert mesh.stop() == 0
    kept = json.loads((mesh.home / "state" / "holds.json").read_text())
    assert {hold["service"] for hold in kept} == {"web", "api"}
    mesh.start()
    for name in ("web", "api"):
        mesh.eventually(lambda n=name: mesh.service(n)["hold"]["left"] == 0, f"{name} is drained")
        mesh.eventually(
            lambda n=name: "critical" in health(consul, n, "service"), f"{name} in Consul"
        )
    assert run(mesh, "undrain", "--host").stdout == "api, web: no longer drained\n"
    mesh.eventually(lambda: health(consul, "api") == {"passing"}, "api is back", 5)
