"""The doctor's look at Consul, against a server that answers like one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fleetmesh.edge.consul_probe import ConsulUnreachableError, probe

ANSWERS: dict[str, tuple[int, object]] = {
    "/v1/status/leader": (200, "10.0.0.1:8300"),
    "/v1/agent/self": (200, {"Config": {"Version": "1.8.7", "Server": False}}),
    "/v1/acl/token/self": (200, {"AccessorID": "x"}),
}


class Consul(HTTPServer):
    answers: dict[str, tuple[int, object]]
    token: str | None = None


class Handler(BaseHTTPRequestHandler):
    server: Consul

    def do_GET(self) -> None:
        status, answer = self.server.answers[self.path]
        self.server.token = self.headers.get("X-Consul-Token")
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on standard error."""


@pytest.fixture
def consul() -> Iterator[Consul]:
    with Consul(("127.0.0.1", 0), Handler) as server:
        server.answers = dict(ANSWERS)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(consul: Consul) -> str:
    return f"http://127.0.0.1:{consul.server_port}"


def test_a_healthy_agent(consul: Consul) -> None:
    found = probe(address(consul), None)
    assert (found.leader, found.version, found.server) == ("10.0.0.1:8300", "1.8.7", False)
    assert found.token_accepted is None
    assert found.skew is not None
    assert abs(found.skew) < 3
    assert consul.token is None


@pytest.mark.parametrize(("status", "accepted"), [(200, True), (403, False), (401, None)])
def test_a_token(consul: Consul, status: int, accepted: bool | None) -> None:
    """401 is a server whose ACLs are off."""
    consul.answers["/v1/acl/token/self"] = (status, {})
    assert probe(address(consul), "secret").token_accepted is accepted
    assert consul.token == "secret"


def test_no_leader_and_no_right_to_see_the_version(consul: Consul) -> None:
    consul.answers["/v1/status/leader"] = (500, "No cluster leader")
    consul.answers["/v1/agent/self"] = (403, "Permission denied")
    found = probe(address(consul), None)
    assert (found.leader, found.version) == ("", "")


def test_nobody_there() -> None:
    with pytest.raises(ConsulUnreachableError, match="connection refused"):
        probe("http://127.0.0.1:1", None)
