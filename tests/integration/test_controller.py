"""The controller against a real Consul server and real workers, in a namespace of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import Netns, needs_root, netns, tables

pytestmark = [
    pytest.mark.consul,
    needs_root,
]


@pytest.fixture
def space() -> Iterator[Netns]:
    with netns("agent") as space, inside(space.name):
        yield space


@pytest.fixture
def consul(space: Netns, tmp_path: Path) -> Iterator[ConsulServer]:
    with running_consul(tmp_path / "consul") as server:
        yield server


@pytest.fixture
def mesh(consul: ConsulServer, tmp_path: Path) -> Iterator[Agent]:
    """An agent with `web` and `api`, not started."""
    with agent(tmp_path / "agent", consul={"address": consul.address}) as one:
        one.declare("web", 8080, user="daemon", protocol="http", meta={"version": "v1"})
        one.declare("api", 8000, user="games", tags=["blue"], weight=3)
        yield one


def registered(consul: ConsulServer) -> dict[str, Any]:
    return dict(consul.get("/v1/agent/services"))


def serving(mesh: Agent) -> bool:
    """Both services registered and their upstreams known."""
    status = mesh.status()
    return all(s["registered"] for s in status["services"]) and len(status["upstreams"]) == 2


def seen(mesh: Agent) -> list[bool]:
    """Of each service, whether a handshake with its sidecar port showed what was fetched."""
    return [
        bool(shown := s["identity"]["handshake"])
        and int(shown["serial"], 16) == int(s["identity"]["serial"].replace(":", ""), 16)
        and not shown["wrong_for"]
        for s in mesh.status()["services"]
    ]


def test_start_registers_identifies_and_publishes(
    space: Netns, consul: ConsulServer, mesh: Agent
) -> None:
    """READY means: certificates served by every worker, capture in force."""
    mesh.start()
    status = mesh.status()
    assert status["capture"]["state"] == "unconfirmed"
    assert "inet fleetmesh" in tables(space)
    assert {s["identity"]["workers"] for s in status["services"]} == {1}
    mesh.eventually(lambda: serving(mesh), "registrations")
    mesh.eventually(lambda: all(seen(mesh)), "handshakes")
    assert 'fleetmesh_certificate_served{service="web"} 1.0' in mesh.page("/metrics")[1]
    assert "fleetmesh_refusals_total{" not in mesh.page("/metrics")[1]

    services = registered(consul)
    assert set(services) == {"web", "api", "web-sidecar-proxy", "api-sidecar-proxy"}
    sidecar = services["api-sidecar-proxy"]
    assert sidecar["Proxy"]["DestinationServiceID"] == "api"
    assert sidecar["Weights"]["Passing"] == 3
    assert sidecar["Tags"] == ["blue"]
    checks = consul.get("/v1/agent/checks")
    assert {c["Status"] for c in checks.values()} == {"passing"}
    assert sum(c["ServiceID"] == "web-sidecar-proxy" for c in checks.values()) == 3
    assert mesh.page("/readyz")[0] == 200
    assert 'fleetmesh_certificate_expiry_seconds{service="web"}' in mesh.page("/metrics")[1]
    assert "2 of 2 services with a certificate" in mesh.manager.status()
    assert mesh.stop() == 0


def test_callers_know_of_a_service_whose_protocol_is_found_out(
    consul: ConsulServer, mesh: Agent
) -> None:
    """By its sidecar's meta, until service-defaults say what it is."""
    mesh.declare("api", 8000, user="games", protocol="auto")
    mesh.start()

    def protocol() -> str:
        upstreams = {one["service"]: one for one in mesh.status()["upstreams"]}
        return str(upstreams.get("api", {}).get("protocol"))

    mesh.eventually(lambda: protocol() == "auto", "the protocol of api")
    assert mesh.service("api")["protocol"] == "auto"
    assert mesh.status()["kernel_tls"].startswith("no (")
    consul.call(
        "PUT", "/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"}
    )
    mesh.eventually(lambda: protocol() == "http", "service-defaults")
    assert mesh.service("api")["protocol"] == "auto"


def test_nothing_changes_when_nothing_changed(consul: ConsulServer, mesh: Agent) -> None:
    """Heartbeats and comparisons write no registration and publish no generation."""
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    time.sleep(1)
    generation = mesh.status()["generation"]
    index = consul.get("/v1/catalog/service/web-sidecar-proxy")[0]["ModifyIndex"]
    time.sleep(11)
    assert mesh.status()["generation"] == generation
    assert consul.get("/v1/catalog/service/web-sidecar-proxy")[0]["ModifyIndex"] == index


def test_intention_reaches_the_workers_within_two_seconds(
    consul: ConsulServer, mesh: Agent
) -> None:
    mesh.start()
    before = mesh.status()["generation"]
    created = consul.call(
        "POST",
        "/v1/connect/intentions",
        {"SourceName": "web", "DestinationName": "api", "Action": "deny"},
    )
    mesh.eventually(
        lambda: mesh.service("api")["intentions"] == ["deny web => api"], "the intention", 2
    )
    mesh.eventually(
        lambda: all(w["generation"] > before for w in mesh.status()["workers"]), "generation", 2
    )
    consul.call("DELETE", f"/v1/connect/intentions/{created['ID']}")
    mesh.eventually(lambda: mesh.service("api")["intentions"] == [], "its removal", 2)
    keys = [s["leaf"]["key"] for s in mesh.ask("GET", "/v1/snapshot")[1]["services"]]
    assert keys == [None, None]


def test_killed_worker_is_replaced_and_serves_the_same(mesh: Agent, consul: ConsulServer) -> None:
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    (before,) = mesh.status()["workers"]
    os.kill(before["pid"], signal.SIGKILL)

    def replaced() -> bool:
        status = mesh.status()
        return [w["generation"] for w in status["workers"] if w["pid"] != before["pid"]] == [
            status["generation"]
        ]

    mesh.eventually(replaced, "a new worker")
    assert mesh.status()["workers"][0]["restarts"] == 1
    assert "fleetmesh_worker_restarts_total 1.0" in mesh.page("/metrics")[1]


def test_reload_adds_and_drops_services(space: Netns, consul: ConsulServer, mesh: Agent) -> None:
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    (mesh.services / "web.yaml").unlink()
    mesh.declare("cart", 7001, user="mail")
    assert mesh.ask("POST", "/v1/reload") == (200, {"problems": []})
    wanted = {"api", "api-sidecar-proxy", "cart", "cart-sidecar-proxy"}
    mesh.eventually(lambda: set(registered(consul)) == wanted, "registrations")
    mesh.eventually(lambda: mesh.service("cart")["identity"]["workers"] == 1, "its certificate")
    assert not any(name.endswith(".web") for name in mesh.manager.stored)
    assert {"in.cart", "out4.cart", "out6.cart"} <= set(mesh.manager.stored)
    rules = space.run("nft", "list", "table", "inet", "fleetmesh")
    assert "skuid 8" in rules
    assert "skuid 1 " not in rules


def test_refused_reload_changes_nothing_and_is_shown(mesh: Agent, consul: ConsulServer) -> None:
    mesh.start()
    mesh.configure(drain_timeout="soon")
    status, answer = mesh.ask("POST", "/v1/reload")
    assert status == 400
    assert "drain_timeout" in answer["problems"][0]["path"]
    assert mesh.status()["problems"] == answer["problems"]
    assert "drain_timeout" in mesh.manager.status()
    mesh.configure(drain_timeout=2)
    assert mesh.ask("POST", "/v1/reload")[0] == 200
    assert mesh.status()["problems"] == []


def test_worker_settings_change_by_new_workers(mesh: Agent, consul: ConsulServer) -> None:
    mesh.start()
    (before,) = mesh.status()["workers"]
    mesh.configure(http={"max_headers": 50})
    assert mesh.ask("POST", "/v1/reload")[0] == 200

    def replaced() -> bool:
        status = mesh.status()
        pids = [w["pid"] for w in status["workers"]]
        return len(pids) == 1 and pids != [before["pid"]]

    mesh.eventually(replaced, "a new worker")
    assert mesh.status()["workers"][0]["restarts"] == 0


def test_lost_registration_comes_back(consul: ConsulServer, mesh: Agent) -> None:
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    consul.put("/v1/agent/service/deregister/web-sidecar-proxy")
    mesh.eventually(lambda: "web-sidecar-proxy" in registered(consul), "the registration")


def test_wiped_consul_is_served_anew(consul: ConsulServer, mesh: Agent) -> None:
    """New authority, nothing registered: everything is fetched and registered again."""
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    before = mesh.status()["trust_domain"]
    consul.stop()
    mesh.eventually(lambda: not mesh.status()["consul"]["reachable"], "the outage")
    assert len(mesh.status()["upstreams"]) == 2
    mesh.eventually(lambda: "Consul does not answer" in mesh.manager.status(), "the sentence", 1)
    consul.start()
    mesh.eventually(
        lambda: mesh.status()["trust_domain"] != before and serving(mesh), "the new authority", 20
    )
    mesh.eventually(lambda: len(registered(consul)) == 4, "registrations", 5)
    mesh.eventually(lambda: mesh.status()["consul"]["reachable"], "contact", 2)


def test_restart_keeps_sockets_and_snapshot_without_consul(
    space: Netns, consul: ConsulServer, mesh: Agent
) -> None:
    """A connection made while no agent runs waits in the socket's queue; the next agent serves
    the last snapshot although Consul is gone."""
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    before = mesh.status()
    port = mesh.service("api")["sidecar_port"]
    consul.stop()
    assert mesh.stop() == 0
    waiting = socket.create_connection(("127.0.0.1", port), 2)
    mesh.start()
    after = mesh.status()
    assert after["digest"] == before["digest"]
    assert after["upstreams"] == before["upstreams"]
    assert {s["identity"]["workers"] for s in after["services"]} == {1}
    assert mesh.service("api")["sidecar_port"] == port
    assert not after["consul"]["reachable"]
    waiting.close()


def test_start_without_consul_is_ready_and_captures_nothing(
    space: Netns, consul: ConsulServer, mesh: Agent
) -> None:
    consul.stop()
    mesh.start()
    status = mesh.status()
    assert not status["consul"]["reachable"]
    assert status["services"][0]["identity"]["serial"] == ""
    assert "inet fleetmesh" not in tables(space)
    assert "Waiting for Consul" in mesh.manager.status()
    assert mesh.page("/healthz")[0] == 200
    assert mesh.page("/readyz")[0] == 503
    consul.start()
    mesh.eventually(lambda: serving(mesh), "registrations", 30)


def test_invalid_settings_end_the_start_with_two(mesh: Agent, consul: ConsulServer) -> None:
    mesh.configure(wurkers=3)
    mesh.start(ready=False)
    assert mesh.process is not None
    assert mesh.process.wait(10) == 2
    mesh.process = None
    assert "wurkers" in mesh.log()


def test_taken_port_ends_the_start_and_is_named(mesh: Agent, consul: ConsulServer) -> None:
    with socket.create_server(("127.0.0.1", 15006)):
        mesh.start(ready=False)
        assert mesh.process is not None
        assert mesh.process.wait(10) == 1
    mesh.process = None
    assert "15006" in mesh.log()


def test_sick_application_is_an_endpoint_without_traffic(consul: ConsulServer, mesh: Agent) -> None:
    """The alias check carries the application's health to its sidecar."""
    mesh.declare(
        "api",
        8000,
        user="games",
        checks=[{"tcp": "127.0.0.1:8000", "interval": "1s", "status": "passing"}],
    )
    mesh.start()

    def health() -> str:
        upstreams = {u["service"]: u for u in mesh.status()["upstreams"]}
        return str(upstreams["api"]["target"]["endpoints"][0]["health"])

    mesh.eventually(lambda: serving(mesh) and health() == "critical", "the sick application")
    with socket.create_server(("127.0.0.1", 8000)):
        mesh.eventually(lambda: health() == "passing", "its recovery")


APPLICATION = """
import http.server, json, sys, time
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x")
                time.sleep(0.01)
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Echo).serve_forever()
"""


@pytest.fixture
def application(space: Netns) -> Iterator[None]:
    """Something on port 8000 that knows nothing of the mesh, reachable at the host's address."""
    space.run("ip", "address", "add", "10.99.1.1/32", "dev", "lo")
    with subprocess.Popen([sys.executable, "-c", APPLICATION, "8000"]) as process:
        yield
        process.kill()


def call(user: str, *more: str) -> tuple[int, Any]:
    """Status and JSON of api's answer to a plain curl of `user`; 0 and None without one."""
    command = ["setpriv", "--reuid", user, "--clear-groups", "curl", "-s", "-m", "5"]
    command += ["-w", "\n%{http_code}", "http://10.99.1.1:8000/path", *more]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    body, _, status = out.rpartition("\n")
    return int(status), json.loads(body) if body else None


def through_the_mesh() -> bool:
    status, answer = call("daemon")
    return status == 200 and "X-Forwarded-Client-Cert" in answer["headers"]


def test_unchanged_programs_talk_with_identity_and_under_intentions(
    application: None, consul: ConsulServer, mesh: Agent
) -> None:
    """From one service's user through capture and mutual TLS to the other service, and denied."""
    consul.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    mesh.eventually(through_the_mesh, "an answer through the mesh")
    _, answer = call("daemon", "-H", "X-Forwarded-Client-Cert: forged")
    assert answer["path"] == "/path"
    identity = answer["headers"]["X-Forwarded-Client-Cert"]
    assert "/svc/web" in identity
    assert "forged" not in identity

    created = consul.call(
        "POST",
        "/v1/connect/intentions",
        {"SourceName": "web", "DestinationName": "api", "Action": "deny"},
    )
    mesh.eventually(lambda: call("daemon")[0] == 403, "the denial", 2)
    _, denial = call("daemon")
    assert (denial["source"], denial["destination"]) == ("web", "api")
    assert denial["intention"] == "deny web => api"
    page = mesh.page("/metrics")[1]
    assert 'source="web"' in page.split("fleetmesh_refusals_total{", 1)[1].splitlines()[0]

    consul.call("DELETE", f"/v1/connect/intentions/{created['ID']}")
    mesh.eventually(lambda: call("daemon")[0] == 200, "the permission", 2)


def test_a_request_can_be_followed_through_both_hops(
    application: None, consul: ConsulServer, mesh: Agent
) -> None:
    """By its trace, which the application is told too; records are kept once they are asked for."""
    consul.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    assert mesh.ask("GET", "/v1/requests")[0] == 409
    mesh.configure(access_log={"mode": "ring"})
    assert mesh.ask("POST", "/v1/reload")[0] == 200
    mesh.eventually(through_the_mesh, "an answer through the mesh")
    _, answer = call("daemon", "-H", "X-Request-Id: follow-me")
    told = {name.lower(): value for name, value in answer["headers"].items()}
    assert told["x-request-id"] == "follow-me"

    def hops() -> dict[str, Any]:
        records = mesh.ask("GET", "/v1/requests?limit=10")[1]["requests"]
        return {r["direction"]: r for r in records if r["request_id"] == "follow-me"}

    mesh.eventually(lambda: len(hops()) == 2, "a record of each hop")
    out, inward = hops()["outbound"], hops()["inbound"]
    assert out["trace_id"] == inward["trace_id"] == told["traceparent"][3:35]
    assert (out["source"], out["destination"], out["status"]) == ("web", "api", 200)
    assert inward["parent_id"] == out["span_id"]


def test_no_request_fails_while_the_agent_restarts(
    application: None, consul: ConsulServer, mesh: Agent
) -> None:
    """Three restarts under a steady stream of calls, each on a connection of its own."""
    consul.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    mesh.eventually(through_the_mesh, "an answer through the mesh")
    answered: list[bool] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answered.append(through_the_mesh())

    thread = threading.Thread(target=load)
    thread.start()
    for _ in range(3):
        time.sleep(0.5)
        assert mesh.stop() == 0
        mesh.start()
    time.sleep(0.5)
    stop.set()
    thread.join()
    assert len(answered) > 20
    assert all(answered)


def test_authority_rotates(consul: ConsulServer, mesh: Agent) -> None:
    """A new root: first trusted beside the old one, then a certificate signed by it (Consul
    spreads the renewals over half a minute)."""
    mesh.start()
    (root,) = mesh.ask("GET", "/v1/snapshot")[1]["roots"]
    before = mesh.service("web")["identity"]["serial"]
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    configuration = consul.get("/v1/connect/ca/configuration")
    configuration["Config"] |= {"PrivateKey": pem.decode(), "RootCert": ""}
    consul.put("/v1/connect/ca/configuration", configuration)

    def both_roots() -> bool:
        roots = mesh.ask("GET", "/v1/snapshot")[1]["roots"]
        return len(roots) == 2 and root in roots

    mesh.eventually(both_roots, "both roots", 5)

    def renewed() -> bool:
        identity = mesh.service("web")["identity"]
        return identity["serial"] != before and identity["workers"] == 1

    mesh.eventually(renewed, "the renewed certificate", 45)


WATCHER = """
import contextlib, http.client, threading, time
telling = threading.Lock()
def say(*what):
    with telling:
        print(*what, flush=True)
def drip():
    while True:
        caller = http.client.HTTPConnection("10.99.1.1", 8000, timeout=5)
        try:
            with contextlib.closing(caller) as connection:
                connection.request("GET", "/drip")
                answer = connection.getresponse()
                if answer.status == 200:
                    say(time.time(), "open")
                    while answer.read(1):
                        pass
                    say(time.time(), "cut")
        except (OSError, http.client.HTTPException):
            say(time.time(), "cut")
        time.sleep(0.02)
threading.Thread(target=drip, daemon=True).start()
before = 0
connection = http.client.HTTPConnection("10.99.1.1", 8000, timeout=5)
while True:
    try:
        connection.request("GET", "/path")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):  # it was idle, and closed
        connection.close()
        continue
    if answer.status != before:
        before = answer.status
        say(time.time(), before)
    time.sleep(0.005)
"""


def test_a_change_of_an_intention_takes_effect_within_a_second(
    application: None, consul: ConsulServer, mesh: Agent
) -> None:
    """Denied, and cut what is open; permitted again. From before the write at Consul to the first
    other answer."""
    consul.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
    mesh.start()
    mesh.eventually(lambda: serving(mesh), "registrations")
    mesh.eventually(through_the_mesh, "an answer through the mesh")
    command = ["setpriv", "--reuid", "daemon", "--clear-groups", sys.executable, "-c", WATCHER]
    seen: dict[str, float] = {}
    news = threading.Condition()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:

        def listen() -> None:
            assert watcher.stdout is not None
            for line in watcher.stdout:
                at, what = line.split()
                with news:
                    seen[what] = float(at)
                    news.notify_all()

        def waited(what: str, since: float) -> float:
            with news:
                assert news.wait_for(lambda: seen.get(what, 0.0) > since, 10), (what, seen)
                return seen[what] - since

        threading.Thread(target=listen, daemon=True).start()
        took: list[float] = []
        try:
            waited("open", 0.0)
            for _ in range(10):
                time.sleep(1.0)
                begin = time.time()
                created = consul.call(
                    "POST",
                    "/v1/connect/intentions",
                    {"SourceName": "web", "DestinationName": "api", "Action": "deny"},
                )
                took += [waited("403", begin), waited("cut", begin)]
                time.sleep(1.0)
                begin = time.time()
                consul.call("DELETE", f"/v1/connect/intentions/{created['ID']}")
                took += [waited("200", begin), waited("open", begin)]
        finally:
            watcher.kill()
    took.sort()
    print(f"{len(took)} effects: median {took[len(took) // 2]:.3f} s, greatest {took[-1]:.3f} s")
    assert took[-1] < 1.0, took
