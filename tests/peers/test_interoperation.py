"""fleetmesh, Consul's own proxy and Envoy in one mesh: each as caller and as callee."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from typing import Any

import pytest
from tests.peers.site import (
    CONNECT,
    ENVOY,
    GREETING,
    GUEST,
    HERE,
    HTTP2_PORT,
    PLAIN_PORT,
    THERE,
    UNKNOWN_PORT,
    WEB,
    WIRE_UPSTREAM,
    Foreign,
    Site,
    eventually,
    site,
)
from tests.support.netns import needs_root

pytestmark = [
    pytest.mark.consul,
    needs_root,
]

BOTH = pytest.mark.parametrize("foreign", [CONNECT, ENVOY], ids=lambda foreign: foreign.kind)
LARGE = 8_000_000
"""Bytes: more than any buffer on the way."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("interoperation")) as one:
        yield one


def ask(connection: HTTPConnection, path: str = "/any", **fields: str) -> dict[str, Any]:
    """What the application says of the request."""
    connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in fields.items()})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    said: dict[str, Any] = json.loads(content)
    said["fields"] = {name.lower(): value for name, value in said["fields"]}
    return said


def exchange(connection: HTTPConnection) -> None:
    """Many requests on one connection, large content both ways, and of unknown length."""
    before = connection.sock
    for _ in range(20):
        assert ask(connection)["method"] == "GET"
    body = os.urandom(LARGE)
    connection.request("POST", "/any", body)
    said = json.loads(connection.getresponse().read())
    assert (said["length"], said["sha256"]) == (LARGE, hashlib.sha256(body).hexdigest())
    connection.request("POST", "/any", iter([body[:70_000], body[70_000:]]), encode_chunked=True)
    said = json.loads(connection.getresponse().read())
    assert (said["length"], said["sha256"]) == (LARGE, hashlib.sha256(body).hexdigest())
    connection.request("GET", f"/big?size={LARGE}")
    assert len(connection.getresponse().read()) == LARGE
    connection.request("GET", "/chunked")
    assert connection.getresponse().read() == b"hello world"
    connection.request("HEAD", "/any")
    assert connection.getresponse().read() == b""
    assert connection.sock is before


def converse(sock: socket.socket, foreign: Foreign) -> None:
    """The server speaks first; a large echo; the end of one direction leaves the other open, save
    with Consul's proxy, which ends a connection with the first of them."""
    with sock, sock.makefile("rb") as received:
        assert received.readline() == GREETING
        for size in (1, 65_536, 1_000_000):
            message = os.urandom(size)
            sock.sendall(message)
            assert received.read(size) == message
        if foreign is ENVOY:
            sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert received.read() == (b"last words" if foreign is ENVOY else b"")


def upgrade(sock: socket.socket) -> None:
    """A change to WebSocket, and bytes both ways after it."""
    with sock, sock.makefile("rb") as received:
        sock.sendall(
            b"GET /upgrade HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b"".join(iter(received.readline, b"\r\n")).lower()
        assert head.startswith(b"http/1.1 101 ")
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
        message = os.urandom(100_000)
        sock.sendall(message)
        assert received.read(len(message)) == message


def dripping(connection: HTTPConnection) -> HTTPResponse:
    """An answer that would go on for a minute, of which something has come."""
    connection.request("GET", "/drip?n=1200&gap=0.05")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read(2) == b"00"
    return answer


def ends_early(answer: HTTPResponse) -> bool:
    try:
        answer.read()
    except (OSError, IncompleteRead):
        return True
    return False


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


# fleetmesh calls.


@BOTH
def test_http_to_a_foreign_callee(running: Site, foreign: Foreign) -> None:
    exchange(running.call(THERE, foreign.http, WEB))


@BOTH
def test_tcp_to_a_foreign_callee(running: Site, foreign: Foreign) -> None:
    for _ in range(3):
        converse(running.connect(THERE, foreign.tcp, WEB), foreign)


@BOTH
def test_a_foreign_callee_denies_as_consul_says(running: Site, foreign: Foreign) -> None:
    """guest is kept out of what web may call. Envoy says so by request, Consul's proxy ends
    the connection once it knows who calls."""
    assert not running.answered(THERE, foreign.tcp, GUEST)
    connection = running.call(THERE, foreign.http, GUEST)
    connection.request("GET", "/any")
    answer = connection.getresponse()
    expected = (403, None) if foreign is ENVOY else (503, "upstream_reset")
    assert (answer.status, answer.headers["x-fleetmesh-reason"]) == expected
    assert running.answered(THERE, foreign.tcp, WEB)


def test_consuls_proxy_takes_up_an_intention(running: Site) -> None:
    """For connections that are new to it: one that is open stays, whoever its caller is."""
    held = running.connect(THERE, CONNECT.tcp, WEB)
    assert held.recv(len(GREETING)) == GREETING
    with running.intention("web", "connect-tcp"):
        eventually(lambda: not running.answered(THERE, CONNECT.tcp, WEB), "the denial")
        held.sendall(b"still here")
        assert held.recv(10) == b"still here"
    eventually(lambda: running.answered(THERE, CONNECT.tcp, WEB), "the permission")
    held.close()


@BOTH
def test_an_endpoint_of_another_identity_is_refused(running: Site, foreign: Foreign) -> None:
    """Registered at a sidecar that proves another service's name: nothing reaches it."""
    connection = running.call(THERE, foreign.http + 100, WEB)
    connection.request("GET", "/any")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["x-fleetmesh-reason"]) == (503, "wrong_peer")


def test_envoy_tells_its_application_who_calls(running: Site) -> None:
    """Envoy appends to what it gets from the mesh, so the caller's own claim must not reach it."""
    connection = running.call(THERE, ENVOY.http, WEB)
    said = ask(connection, X_Forwarded_Client_Cert="URI=spiffe://forged")["fields"]
    certificate = said["x-forwarded-client-cert"]
    assert f"URI={running.spiffe_id('web')}" in certificate
    assert f"By={running.spiffe_id('envoy-http')}" in certificate
    assert "forged" not in certificate
    assert said["host"] == f"{THERE}:{ENVOY.http}"


def test_websocket_to_envoy(running: Site) -> None:
    upgrade(running.connect(THERE, ENVOY.http, WEB))


def test_http2_to_envoy(running: Site) -> None:
    """Carried as tcp, it must still come out as HTTP/2: Envoy goes by what was agreed in TLS."""
    command = ["setpriv", f"--reuid={WEB}", "--clear-groups", "curl", "-s", "-S", "-m", "5"]
    command += ["--http2-prior-knowledge", "-w", " %{http_version}"]
    command += [f"http://{THERE}:{HTTP2_PORT}/any"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith(" 2"), done
    assert json.loads(done.stdout[:-2])["target"] == "/any"


# fleetmesh is called.


@BOTH
def test_http_from_a_foreign_caller(running: Site, foreign: Foreign) -> None:
    exchange(running.call("127.0.0.1", foreign.api))


@BOTH
def test_tcp_from_a_foreign_caller(running: Site, foreign: Foreign) -> None:
    for _ in range(3):
        converse(running.connect("127.0.0.1", foreign.store), foreign)


@BOTH
def test_the_application_hears_who_calls_from_a_foreign_sidecar(
    running: Site, foreign: Foreign
) -> None:
    """In Envoy's own words, and nothing of what the caller claims: Consul's proxy, which knows
    no HTTP, would let that through."""
    connection = running.call("127.0.0.1", foreign.api)
    said = ask(connection, X_Forwarded_Client_Cert="URI=spiffe://forged")["fields"]
    by, digest, subject, uri = said["x-forwarded-client-cert"].split(";")
    assert by == f"By={running.spiffe_id('api')}"
    assert re.fullmatch("Hash=[0-9a-f]{64}", digest)
    assert subject.startswith('Subject="')
    assert uri == f"URI={running.spiffe_id(f'{foreign.kind}-http')}"


@BOTH
def test_intentions_hold_for_a_foreign_caller(running: Site, foreign: Foreign) -> None:
    """Denied, and cut what is open, answers and connections; and permitted again."""
    answer = dripping(running.call("127.0.0.1", foreign.api))
    held = running.connect("127.0.0.1", foreign.store)
    assert held.recv(len(GREETING)) == GREETING
    with (
        running.intention(f"{foreign.kind}-http", "api"),
        running.intention(f"{foreign.kind}-tcp", "store"),
    ):
        eventually(lambda: running.get("127.0.0.1", foreign.api) == 403, "the denial")
        assert ends_early(answer)
        eventually(lambda: not running.answered("127.0.0.1", foreign.store), "the denial")
        assert ended(held)
        assert running.get(HERE, 8000, WEB) == 200  # nobody else is concerned
    eventually(lambda: running.get("127.0.0.1", foreign.api) == 200, "the permission")
    eventually(lambda: running.answered("127.0.0.1", foreign.store), "the permission")


def test_websocket_from_envoy(running: Site) -> None:
    upgrade(running.connect("127.0.0.1", ENVOY.api))


def test_http2_from_envoy(running: Site) -> None:
    """Its caller speaks HTTP/1.1 to it, and it HTTP/2 to the application behind fleetmesh."""
    connection = running.call("127.0.0.1", WIRE_UPSTREAM)
    connection.request("POST", "/any", b"x" * LARGE)
    answer = connection.getresponse()
    assert answer.headers["x-protocol"] == "HTTP/2"
    assert json.loads(answer.read())["length"] == LARGE


# A service of the catalog without a sidecar, and one address that is no service at all.


def configured(running: Site, **settings: Any) -> None:
    before = running.mesh.status()["generation"]
    running.mesh.configure(**settings)
    assert running.mesh.ask("POST", "/v1/reload") == (200, {"problems": []})
    running.mesh.eventually(
        lambda: all(w["generation"] > before for w in running.mesh.status()["workers"]),
        "a generation of these settings",
    )


@pytest.mark.parametrize(
    ("without_sidecar", "only_mesh", "reached"),
    [
        (None, False, {PLAIN_PORT, UNKNOWN_PORT}),
        (None, True, set()),
        ("refuse", False, {UNKNOWN_PORT}),
        ("passthrough", True, {PLAIN_PORT}),
    ],
)
def test_services_without_a_sidecar(
    running: Site, without_sidecar: str | None, only_mesh: bool, reached: set[int]
) -> None:
    """By two settings; and services with one are reached in any case."""
    running.mesh.settings.pop("without_sidecar", None)
    named = {} if without_sidecar is None else {"without_sidecar": without_sidecar}
    configured(running, mesh_destinations_only=only_mesh, **named)

    def reach() -> set[int]:
        ports = (PLAIN_PORT, UNKNOWN_PORT)
        return {port for port in ports if running.answered(THERE, port, WEB)}

    eventually(lambda: reach() == reached, "the setting")
    assert running.answered(THERE, CONNECT.tcp, WEB)
    if without_sidecar == "refuse":
        page = running.mesh.page("/metrics")[1]
        refusals = [line for line in page.splitlines() if 'reason="no_sidecar"' in line]
        assert 'destination="plain"' in refusals[0]
