"""`Expose` of service-defaults: paths for whoever has no certificate, and Consul's own checks."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.agent import agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import needs_root, netns

pytestmark = [
    pytest.mark.consul,
    needs_root,
]


class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.server.server_port} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    """As from 1.9 on by default, its agent merges config entries into registrations."""
    merging = {"enable_central_service_config": True}
    with netns("expose") as space, inside(space.name):
        for host in ("10.99.1.1", "10.99.1.2"):
            space.run("ip", "address", "add", f"{host}/32", "dev", "lo")
        servers = [
            http.server.ThreadingHTTPServer(("127.0.0.1", port), Application)
            for port in (8000, 9102)
        ]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        with running_consul(tmp_path / "consul", merging) as running:
            yield running
        for server in servers:
            server.shutdown()
            server.server_close()


def ask(port: int, path: str, source: str = "10.99.1.1") -> tuple[int, str]:
    """Without a certificate: status, and content or reason; 0 where nobody listens."""
    connection = http.client.HTTPConnection("10.99.1.1", port, 5, source_address=(source, 0))
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
        except OSError:
            return 0, ""
        return answer.status, answer.getheader("x-fleetmesh-reason") or answer.read().decode()


def expose(consul: ConsulServer, **what: object) -> None:
    entry = {"Kind": "service-defaults", "Name": "api", "Protocol": "http", "Expose": what}
    consul.put("/v1/config", entry)


def check(consul: ConsulServer) -> tuple[str, str]:
    found = consul.get("/v1/agent/checks").get("service:api", {})
    return found.get("Status", ""), found.get("Output", "")


def test_paths_and_checks_are_exposed_as_with_envoy(consul: ConsulServer, tmp_path: Path) -> None:
    paths = [
        {"ListenerPort": 9555, "Path": "/metrics", "LocalPathPort": 9102},
        {"ListenerPort": 9555, "Path": "/health", "LocalPathPort": 8000},
    ]
    health = {"name": "alive", "http": "http://127.0.0.1:8000/health?deep=1", "interval": "1s"}
    with agent(tmp_path / "agent", consul={"address": consul.address}) as mesh:
        mesh.declare("api", 8000, user="games", checks=[health])
        expose(consul)
        mesh.start()
        mesh.eventually(lambda: check(consul)[0] == "passing", "the check passes")
        assert ":8000/health" in check(consul)[1]
        assert ask(9555, "/metrics") == (0, "")

        expose(consul, Checks=True, Paths=paths)
        mesh.eventually(lambda: ask(9555, "/metrics")[0] == 200, "the paths are exposed")
        assert ask(9555, "/metrics?name=x") == (200, "9102 /metrics?name=x")
        assert ask(9555, "/health") == (200, "8000 /health")
        assert ask(9555, "/") == (404, "not_exposed")
        assert ask(8000, "/") == (0, "")

        # Consul's agent merges entries when it hears of a registration or of a change.
        mesh.eventually(lambda: ":21500/health" in check(consul)[1], "the check is rerouted")
        import time

        time.sleep(4)
        print(consul.get("/v1/agent/checks"))
        print(consul.get("/v1/agent/services"))
        mesh.eventually(lambda: check(consul)[0] == "passing", "it passes there")
        assert ask(21500, "/health") == (200, "8000 /health")
        assert ask(21500, "/health", source="10.99.1.2") == (404, "not_exposed")

        mesh.stop()
        mesh.start()
        assert ask(9555, "/health") == (200, "8000 /health")
        assert check(consul)[0] == "passing"
        assert mesh.status()["problems"] == []

        expose(consul)
        mesh.eventually(lambda: ask(9555, "/metrics") == (0, ""), "nothing is exposed")
        # Consul 1.8 goes on looking where it looked.
        for _ in range(4):
            assert check(consul)[0] == "passing"
            time.sleep(0.5)
