"""Life without Consul: every row is an outage of a real Consul (a server, the host's agent, and a
proxy before it that can fail) with load running through capture, a real agent and mutual TLS. No
request may fail."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.integration.test_controller import APPLICATION
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ClientAgent, LastingServer, consul_binary
from tests.support.evidence import TABLES, Evidence
from tests.support.fault import Faults, faults
from tests.support.netns import Netns, needs_root, netns

pytestmark = [
    pytest.mark.consul,
    needs_root,
]

CALLER = 1  # daemon, the user of web
ADDRESS, PORT = "10.99.1.1", 8000
PATIENCE = 15.0
MEASURED = 3.0
"""Seconds of load while an outage lasts."""
SHORT_PATIENCE = 3.0
"""In place of mesh.FULL_PATIENCE: every outage outlasts it."""


class Load:
    """web calls api, each time on a connection of its own, until the end of the block."""

    def __init__(self, space: Netns) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self._space = space
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._within)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _within(self) -> None:
        self._space.call(self._run, uid=CALLER)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                outcome = called()
            except (OSError, http.client.HTTPException) as error:
                outcome = repr(error)
            if outcome:
                self.failed[outcome] += 1
            else:
                self.answered += 1


def called() -> str:
    """Nothing when api answered through the mesh."""
    connection = http.client.HTTPConnection(ADDRESS, PORT, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        return f"{answer.status} {answer.getheader('x-fleetmesh-reason')}"
    return "" if b"X-Forwarded-Client-Cert" in body else "past the mesh"


def count(condition: str, load: Load) -> None:
    """A row of the table at the end of the report."""
    row = condition.replace("_", " ")
    TABLES.setdefault("without Consul", Counter()).update(
        {(row, "requests"): load.answered + load.failed.total(), (row, "failed"): 0}
    )
    TABLES["without Consul"][row, "failed"] += load.failed.total()


class World:
    def __init__(
        self, space: Netns, server: LastingServer, local: ClientAgent, proxy: Faults, mesh: Agent
    ) -> None:
        self.space = space
        self.server = server
        self.local = local
        self.proxy = proxy
        self.mesh = mesh

    @property
    def healthy(self) -> bool:
        status = self.mesh.status()
        return (
            status["consul"]["reachable"]
            and not any(watch["stale"] for watch in status["consul"]["watches"])
            and all(s["registered"] for s in status["services"])
            and len(status["upstreams"]) == 2
            and not self.space.call(called, uid=CALLER)
        )

    def recover(self) -> None:
        self.proxy.become()
        self.mesh.eventually(lambda: self.healthy, "health after the outage", 90)

    def restart(self) -> None:
        assert self.mesh.stop() == 0
        self.mesh.start()

    def stale(self) -> dict[str, float]:
        watches = self.mesh.status()["consul"]["watches"]
        return {watch["watch"]: watch["stale"] for watch in watches if watch["stale"]}

    @property
    def cached(self) -> Path:
        return self.mesh.home / "state" / "snapshot"

    def forget(self) -> None:
        """The host boots: the agent ends and systemd keeps nothing."""
        assert self.mesh.stop() == 0
        for fds in self.mesh.manager.stored.values():
            for fd in fds:
                os.close(fd)
        self.mesh.manager.stored.clear()


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    return Evidence(f"outage: {request.node.name.removeprefix('test_')}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("outage")
    binary = consul_binary()
    with contextlib.ExitStack() as stack:
        space = stack.enter_context(netns(f"outage{os.getpid()}"))
        stack.enter_context(inside(space.name))
        space.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
        application = subprocess.Popen([sys.executable, "-c", APPLICATION, str(PORT)])
        stack.callback(application.wait)
        stack.callback(application.kill)
        server = LastingServer(binary, home / "server")
        stack.callback(server.stop)
        server.start()
        local = ClientAgent(binary, home / "local", server)
        stack.callback(local.stop)
        local.start()
        proxy = stack.enter_context(faults(local.address))
        (home / "token").write_text("a-token")
        mesh = stack.enter_context(
            agent(
                home / "agent",
                consul={
                    "address": f"http://127.0.0.1:{proxy.port}",
                    "token_file": str(home / "token"),
                },
            )
        )
        mesh.prelude = (
            f"from fleetmesh.process import mesh; mesh.FULL_PATIENCE = {SHORT_PATIENCE}; "
        )
        mesh.declare("web", 8080, user="daemon", protocol="http")
        mesh.declare("api", PORT, user="games", protocol="http")
        server.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
        mesh.start()
        made = World(space, server, local, proxy, mesh)
        made.recover()
        assert mesh.ask("POST", "/v1/capture/confirm")[1]["confirmed"]
        yield made


Outage = Callable[[World], None]


def local_agent_restarted(world: World) -> None:
    world.local.stop()
    world.local.start()
    time.sleep(MEASURED)


def local_agent_gone(world: World) -> None:
    world.local.stop()
    world.mesh.eventually(lambda: "catalog" in world.stale(), "staleness")
    time.sleep(MEASURED)


def local_agent_gone_and_ours_restarted(world: World) -> None:
    world.local.stop()
    world.restart()
    time.sleep(MEASURED)


def local_agent_hangs(world: World) -> None:
    world.local.pause()
    time.sleep(MEASURED)


def local_agent_hangs_and_ours_restarted(world: World) -> None:
    world.local.pause()
    world.restart()
    time.sleep(MEASURED)


def servers_gone(world: World) -> None:
    world.server.stop()
    time.sleep(MEASURED)
    world.mesh.eventually(world.stale, "staleness", 45)


def servers_gone_and_ours_restarted(world: World) -> None:
    world.server.stop()
    world.restart()
    time.sleep(MEASURED)


def servers_hang(world: World) -> None:
    world.server.pause()
    time.sleep(MEASURED)


def network_cut(world: World) -> None:
    world.proxy.become("cut")
    world.mesh.eventually(lambda: len(world.stale()) >= 5, "staleness")
    time.sleep(MEASURED)


def no_answer_ever(world: World) -> None:
    """Questions that block are none the wiser for minutes: heartbeats tell a hang from a wait."""
    world.proxy.become("hang")
    world.mesh.eventually(lambda: not world.mesh.status()["consul"]["reachable"], "notice", 30)


def no_answer_and_ours_restarted(world: World) -> None:
    world.proxy.become("hang")
    world.restart()
    time.sleep(MEASURED)


def slow_answers(world: World) -> None:
    world.proxy.become("pass", delay=4.0)
    time.sleep(2 * MEASURED)


def no_leader(world: World) -> None:
    world.proxy.become("error")
    time.sleep(MEASURED)


def no_leader_and_ours_restarted(world: World) -> None:
    world.proxy.become("error")
    world.restart()
    time.sleep(MEASURED)


def index_goes_back(world: World) -> None:
    world.proxy.become("back")
    before = len(world.proxy.requests)
    time.sleep(2 * MEASURED)
    running = len(world.mesh.status()["consul"]["watches"])
    rate = (len(world.proxy.requests) - before) / (2 * MEASURED)
    assert rate < 40, f"{rate} requests a second for {running} kinds of watches"


def catalog_emptied(world: World) -> None:
    """Longer than a single service is kept: everything is gone at once."""
    world.proxy.become("empty")
    time.sleep(15)
    assert "vanished" in world.mesh.log() or "looking again" in world.mesh.log()


def authority_gone(world: World) -> None:
    """Everything else of Consul answers."""
    world.proxy.become("unsigned")
    world.mesh.eventually(
        lambda: "roots" in world.stale() and "leaf:web" in world.stale(), "staleness", 30
    )
    time.sleep(MEASURED)


def authority_gone_and_ours_restarted(world: World) -> None:
    world.proxy.become("unsigned")
    world.restart()
    time.sleep(MEASURED)


def token_without_rights(world: World) -> None:
    world.proxy.become("denied")
    world.mesh.eventually(
        lambda: "403" in world.mesh.status()["consul"]["error"], "a word about the token", 60
    )
    time.sleep(MEASURED)


def cache_corrupt_and_ours_restarted(world: World) -> None:
    """Without Consul: systemd has it still."""
    world.proxy.become("cut")
    world.cached.write_bytes(b"junk")
    world.restart()
    time.sleep(MEASURED)


def instances_unknown_and_ours_restarted(world: World) -> None:
    """Servers that come back tell what services there are before they tell where."""
    world.proxy.become(mute="/v1/health/connect/")
    world.restart()
    time.sleep(SHORT_PATIENCE + MEASURED)


def chains_unknown_and_ours_restarted(world: World) -> None:
    world.proxy.become(mute="/v1/discovery-chain/")
    world.restart()
    time.sleep(SHORT_PATIENCE + MEASURED)


def catalog_emptied_and_ours_restarted(world: World) -> None:
    world.proxy.become("empty")
    world.restart()
    time.sleep(15)


ROWS: list[Outage] = [
    local_agent_restarted,
    local_agent_gone,
    local_agent_gone_and_ours_restarted,
    local_agent_hangs,
    local_agent_hangs_and_ours_restarted,
    servers_gone,
    servers_gone_and_ours_restarted,
    servers_hang,
    network_cut,
    no_answer_ever,
    no_answer_and_ours_restarted,
    slow_answers,
    no_leader,
    no_leader_and_ours_restarted,
    index_goes_back,
    catalog_emptied,
    authority_gone,
    authority_gone_and_ours_restarted,
    token_without_rights,
    cache_corrupt_and_ours_restarted,
    instances_unknown_and_ours_restarted,
    chains_unknown_and_ours_restarted,
    catalog_emptied_and_ours_restarted,
]


def end(world: World) -> None:
    """Of any outage. Signals first: what is stopped cannot be asked whether it is ready."""
    for consul in (world.server, world.local):
        if consul.running:
            consul.resume()
    for consul in (world.server, world.local):
        if not consul.running:
            consul.start()
    # Consul's gossip looks for a lost server every 30 s: not what is tested here.
    with contextlib.suppress(OSError):
        world.local.put(f"/v1/agent/join/127.0.0.1:{world.server.ports['serf-lan']}")
    world.recover()


@pytest.mark.parametrize("outage", ROWS, ids=lambda row: row.__name__)
def test_no_request_fails(world: World, outage: Outage) -> None:
    with Load(world.space) as load:
        time.sleep(0.3)
        try:
            outage(world)
        finally:
            end(world)
        time.sleep(0.3)
    count(outage.__name__, load)
    assert load.failed == {}
    assert load.answered > 30


def test_host_boots_while_consul_is_gone(world: World) -> None:
    """The disk has what systemd has not: capture, identities and endpoints are there at READY."""
    world.mesh.eventually(world.cached.exists, "the cache")
    time.sleep(1.5)
    before = world.mesh.status()
    world.proxy.become("cut")
    world.forget()
    world.mesh.start()
    with Load(world.space) as load:
        time.sleep(MEASURED)
    after = world.mesh.status()
    count("host_boots_while_consul_is_gone", load)
    assert load.failed == {}
    assert load.answered > 30
    assert not after["consul"]["reachable"]
    assert after["digest"] == before["digest"]
    world.recover()


def test_host_boots_with_a_corrupt_cache(world: World) -> None:
    """Nothing of it is served, the problem is shown, and Consul heals it."""
    world.proxy.become("cut")
    world.forget()
    data = world.cached.read_bytes()
    world.cached.write_bytes(data[:-7] + b"garbage")
    world.mesh.start()
    status = world.mesh.status()
    assert [s["identity"]["serial"] for s in status["services"]] == ["", ""]
    assert any("digest" in problem["rule"] for problem in status["problems"])
    assert world.cached.with_name("snapshot.refused").exists()
    world.recover()
    world.mesh.eventually(lambda: world.cached.exists(), "a new cache")
    assert world.mesh.status()["problems"] == []


def test_return_is_no_stampede(world: World, evidence: Evidence) -> None:
    """Watches that lost Consul together do not return together."""
    world.proxy.become("cut")
    time.sleep(8)
    world.proxy.become()
    begun = time.monotonic()
    time.sleep(7)
    came = [at - begun for at in world.proxy.requests if begun <= at < begun + 6]
    busiest = max(sum(start <= at < start + 0.25 for at in came) for start in came)
    evidence(f"{len(came)} requests in 6 s after the return, at most {busiest} in 250 ms")
    assert len(came) >= 8
    assert busiest < len(came) * 0.8
    world.recover()


def rotate(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    configuration: Any = world.server.get("/v1/connect/ca/configuration")
    configuration["Config"] |= {"PrivateKey": pem.decode(), "RootCert": ""}
    world.server.put("/v1/connect/ca/configuration", configuration)


class Handshakes:
    """A client with TLS of its own that dials the sidecar ports all the time, until the end of the
    block. `seen` has (moment, service, serial) of each certificate that was shown."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.seen: list[tuple[float, str, int]] = []
        self.failed: Counter[str] = Counter()
        self._ports = ports
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for service, port in self._ports.items():
                begun = time.monotonic()
                try:
                    with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
                        self.seen.append((begun, service, self._serial(plain)))
                except OSError as error:
                    self.failed[repr(error)] += 1

    def _serial(self, plain: socket.socket) -> int:
        """In TLS 1.3 the client is done before the server asks who it is."""
        with self._context.wrap_socket(plain) as tls:
            der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def test_roots_rotate_twice_under_load(world: World, evidence: Evidence) -> None:
    """No request fails, and the old leaves are gone from every handshake within two minutes: those
    that a client sees, those that the agent sees, and those of workers that call others."""
    services = world.mesh.status()["services"]
    names = {service["name"] for service in services}

    def serials() -> set[int]:
        now = world.mesh.status()["services"]
        return {
            int(serial.replace(":", ""), 16)
            for s in now
            for serial in (s["identity"]["serial"], s["identity"]["handshake"]["serial"])
        }

    took = []
    with (
        Load(world.space) as load,
        Handshakes({s["name"]: s["sidecar_port"] for s in services}) as client,
    ):
        world.mesh.eventually(lambda: {name for _, name, _ in client.seen} == names, "handshakes")
        for _ in range(2):
            old = serials() | {serial for _, _, serial in client.seen}
            begun = time.monotonic()
            rotate(world)

            def renewed(old: set[int] = old) -> bool:
                status = world.mesh.status()["services"]
                return (
                    not serials() & old
                    and all(s["identity"]["workers"] == 1 for s in status)
                    and not any(s["identity"]["handshake"]["wrong_for"] for s in status)
                )

            world.mesh.eventually(renewed, "renewed certificates", 120)
            renewed_at = time.monotonic()
            time.sleep(2)
            last = max((at for at, _, serial in client.seen if serial in old), default=begun)
            took.append(last - begun)
            after = [(name, serial) for at, name, serial in client.seen if at > renewed_at]
            assert {name for name, _ in after} == names
            assert not {serial for _, serial in after} & old
    times = " and ".join(f"{seconds:.1f} s" for seconds in took)
    evidence(
        f"old leaves last seen {times} after the rotation, in {len(client.seen)} handshakes of a "
        f"client; {load.answered} requests answered, {load.failed.total()} failed"
    )
    assert max(took) < 120
    assert not client.failed
    assert load.failed == {}
    assert world.mesh.log().count("do not show its certificate") == 0
