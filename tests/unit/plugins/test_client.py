"""The modules' HTTP client, where a real Consul does not go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.support.collection import load, run_module

consul = load("module_utils.consul")


class Answer(BaseHTTPRequestHandler):
    status = 200
    text = ""

    def do_GET(self) -> None:
        body = self.text.encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, *_: Any) -> None:
        """Tests print what they find, not what they are asked."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def failure(address: str, status: int, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Answer, "status", status)
    monkeypatch.setattr(Answer, "text", text)
    result = run_module(
        "fleetmesh_config_entry",
        consul_address=address,
        kind="service-defaults",
        name="api",
        entry={"Protocol": "http"},
    )
    assert result["failed"]
    message: str = result["msg"]
    return message


@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (404, "404 page not found", "Consul answered 404: 404 page not found"),
        (200, "<html>", "answered something that is no JSON; is it Consul?"),
        (500, "No cluster leader", "Consul answered 500: No cluster leader"),
        (500, "1 error occurred:\n\t* bad\n\n", "Consul answered 500: 1 error occurred: * bad"),
        (403, "", "Consul answered 403: Forbidden"),
    ],
)
def test_answers_that_are_no_entry(
    address: str, status: int, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server's 404 is not an entry that does not exist."""
    message = failure(address, status, text, monkeypatch)
    assert message.startswith("reading service-defaults/api: ")
    assert says in message


def test_a_token_file_that_is_not_there_is_named() -> None:
    result = run_module("fleetmesh_policy_info", token_file="/nonesuch/token")
    assert result["failed"]
    assert result["msg"].startswith("token_file: ")
    assert "/nonesuch/token" in result["msg"]


def test_conflicts_end_after_five_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(consul.time, "sleep", pauses.append)
    attempts = 0

    def lose() -> None:
        nonlocal attempts
        attempts += 1
        raise consul.ConflictError("x")

    with pytest.raises(consul.ConsulError, match="service-defaults/api was changed by somebody"):
        consul.compare_and_set(lose, "service-defaults/api")
    assert attempts == 5
    assert all(0 < pause < 0.5 for pause in pauses)
