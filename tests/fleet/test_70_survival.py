"""What the mesh survives from the first day: Consul gone, workers killed, agents stopped,
certificates rotated, hosts rebooted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.evidence import Evidence
from tests.support.fleet import AGENT_TOKEN, Fleet, with_token
from tests.support.hosts import Answer, Host, eventually
from tests.support.wire import Wire


def ask(fleet: Fleet) -> Answer:
    return fleet["web1"].curl(fleet["api1"].url(8000), user="web")


def account_text(account: dict[str, Any]) -> str:
    return (
        f"{account['requests']} requests, statuses {account['statuses']}, instances "
        f"{account['instances']}, failed {account['failed']}, longest {account['longest']} s"
    )


@pytest.fixture(autouse=True)
def _mesh_is_whole(fleet: Fleet) -> Iterator[None]:
    """Every test finds and leaves the mesh as the rollout left it."""
    yield
    for host in fleet.mesh:
        host.run("systemctl start consul fleetmesh-agent")
    for host in fleet.mesh:
        host.wait_ready()
    eventually(
        lambda: {ask(fleet).instance for _ in range(4)} == {"api1/api", "api2/api"},
        30,
        "both instances are back",
    )


def test_consul_agents_gone_for_a_while(fleet: Fleet, evidence: Evidence) -> None:
    """Consul stopped on caller and callee for 20 s: every request is answered meanwhile."""
    web1, api1 = fleet["web1"], fleet["api1"]
    steady = web1.start("steady.py", api1.url(8000), "24", "4", "5", user="web")
    steady.until("open")
    web1.run("systemctl kill -s KILL consul; systemctl stop consul")
    api1.run("systemctl kill -s KILL consul; systemctl stop consul")
    time.sleep(10)
    checked = web1.run("fleetmesh check", check=False)
    assert checked.returncode == 2
    assert not web1.status()["consul"]["reachable"]
    assert web1.metric("fleetmesh_consul_up") == 0
    time.sleep(8)
    assert {ask(fleet).status for _ in range(4)} == {200}
    for host in (web1, api1):
        host.run("systemctl start consul")
    account = steady.finish()
    evidence(f"20 s without Consul: {account_text(account)}")
    assert account["failed"] == 0, account["failures"]
    eventually(lambda: web1.status()["consul"]["reachable"], 30, "Consul is seen again", every=0.5)
    eventually(lambda: web1.run("fleetmesh check", check=False).returncode == 0, 30, "all is well")


def test_agent_starts_while_consul_is_gone(fleet: Fleet, evidence: Evidence) -> None:
    """An agent restarted without Consul serves what it served before."""
    web1 = fleet["web1"]
    before = web1.status()
    web1.run("systemctl stop consul")
    began = time.monotonic()
    web1.run("systemctl restart fleetmesh-agent")
    eventually(lambda: ask(fleet).status == 200, 15, "web is served without Consul")
    evidence(f"served {time.monotonic() - began:.1f} s after the restart without Consul")
    after = web1.status()
    assert after["pid"] != before["pid"]
    serials = [s["services"][0]["identity"]["serial"] for s in (before, after)]
    assert serials[0] == serials[1]


def test_consul_registrations_come_back(fleet: Fleet) -> None:
    """Services that somebody deregistered are registered again."""
    api2 = fleet["api2"]
    api2.run(
        f"curl -sSf -X PUT {with_token(AGENT_TOKEN)} "
        "http://127.0.0.1:8500/v1/agent/service/deregister/api"
    )
    eventually(
        lambda: (
            any(
                entry["Node"]["Node"] == "api2"
                for entry in fleet.consul("GET", "/v1/health/connect/api?passing")
            )
            and any(
                entry["Node"]["Node"] == "api2"
                for entry in fleet.consul("GET", "/v1/health/service/api?passing")
            )
        ),
        40,
        "api on api2 is registered and passing",
        every=0.5,
    )


def test_killed_worker_is_replaced(fleet: Fleet, evidence: Evidence) -> None:
    """SIGKILL for one worker: another takes its place, counters do not go back, requests go on."""
    api1 = fleet["api1"]
    before = api1.status()
    counted = api1.metric("fleetmesh_requests_total", direction="inbound")
    victim = before["workers"][0]["pid"]
    began = time.monotonic()
    api1.run(["kill", "-KILL", str(victim)])

    def replaced() -> bool:
        workers = api1.status()["workers"]
        return len(workers) == len(before["workers"]) and victim not in {
            worker["pid"] for worker in workers
        }

    eventually(replaced, 5, "a new worker")
    evidence(f"worker replaced within {time.monotonic() - began:.2f} s")
    after = api1.status()
    assert after["pid"] == before["pid"]
    assert {worker["generation"] for worker in after["workers"]} == {after["generation"]}
    assert api1.metric("fleetmesh_worker_restarts_total") >= 1
    assert api1.metric("fleetmesh_requests_total", direction="inbound") >= counted
    assert {ask(fleet).status for _ in range(6)} == {200}


def test_only_the_killed_workers_connections_are_lost(fleet: Fleet) -> None:
    """Of eight streams on two workers, those of the worker that lives go on."""
    web1, api1 = fleet["web1"], fleet["api1"]
    if len(web1.status()["workers"]) < 2:
        pytest.skip("one worker only")
    streams = [
        web1.start("stream.py", "websocket", api1.url(8000, "/ws"), user="web") for _ in range(8)
    ]
    for stream in streams:
        stream.until("echo")
    spread = {worker["pid"]: worker["connections"] for worker in web1.status()["workers"]}
    victim = min(spread, key=lambda pid: spread[pid])
    web1.run(["kill", "-KILL", str(victim)])
    time.sleep(1)
    alive = [stream for stream in streams if stream.running]
    assert alive, spread
    for stream in alive:
        before = stream.until("echo")["number"]
        assert stream.until("echo")["number"] == before + 1


def test_controller_killed(fleet: Fleet, evidence: Evidence) -> None:
    """SIGKILL for the controller: systemd restarts the agent, no connection is refused."""
    web1, api1 = fleet["web1"], fleet["api1"]
    before = web1.status()["pid"]
    web1.run(["kill", "-KILL", str(before)])
    began = time.monotonic()
    # The socket stayed open: the request waits in its backlog until there is a worker again.
    answer = web1.curl(api1.url(8000), user="web", timeout=15)
    evidence(f"the first request after the kill took {time.monotonic() - began:.1f} s")
    assert answer.status == 200
    web1.wait_ready()
    assert web1.status()["pid"] != before


def test_certificates_rotate_under_traffic(fleet: Fleet, evidence: Evidence) -> None:
    """A new root in Consul's CA: every worker serves new leaves, no request and no stream ends."""
    web1, api1 = fleet["web1"], fleet["api1"]

    def workers_agree() -> bool:
        return all(
            service["identity"]["workers"] == len(status["workers"])
            for status in (host.status() for host in fleet.mesh)
            for service in status["services"]
        )

    before = fleet.serials(fleet.mesh)
    streams = [
        web1.start("stream.py", "websocket", api1.url(8000, "/ws"), user="web"),
        web1.start("stream.py", "tcp", api1.address, "9000", user="web"),
    ]
    for stream in streams:
        stream.until("echo")
    steady = web1.start("steady.py", api1.url(8000), "120", "2", "5", user="web")
    steady.until("open")
    began = time.monotonic()
    fleet.rotate_ca()
    # Consul 1.8 spreads the new leaves over 30 s.
    eventually(
        lambda: all(before[name] != serial for name, serial in fleet.serials(fleet.mesh).items()),
        75,
        "every service has a new leaf",
        every=1,
    )
    eventually(workers_agree, 10, "every worker serves it")
    evidence(f"all leaves renewed {time.monotonic() - began:.0f} s after the new root")
    # The old connections live, new ones use the new leaves.
    for stream in streams:
        number = stream.until("echo")["number"]
        assert stream.until("echo")["number"] == number + 1
    assert {ask(fleet).status for _ in range(4)} == {200}
    assert ask(fleet).caller == fleet.spiffe_id("web")
    steady.close_input()
    account = steady.finish()
    evidence(f"during the rotation: {account_text(account)}")
    assert account["failed"] == 0, account["failures"]


def test_agent_stopped_for_good_opens_the_way(fleet: Fleet) -> None:
    """on_stop: open: no rule is left, applications talk directly."""
    web1, api1 = fleet["web1"], fleet["api1"]
    for host in (web1, api1):
        host.run("systemctl stop fleetmesh-agent")
        assert host.run("nft list table inet fleetmesh", check=False).returncode != 0
    with Wire(fleet.netns("fabric"), "web1") as wire:
        answer = web1.curl(api1.url(8000, "/direct"), user="web")
    assert answer.instance == "api1/api"
    assert answer.received("x-forwarded-client-cert") == ""
    assert wire.said("GET /direct")


def test_agent_stopped_for_good_closes_the_way(fleet: Fleet) -> None:
    """on_stop: closed: the service talks to nobody, the host's other users are free."""
    web1, api1, consul1 = fleet["web1"], fleet["api1"], fleet["consul1"]

    def close(document: dict[str, Any]) -> None:
        document["on_stop"] = "closed"

    with web1.edited("/etc/fleetmesh/services.d/web.yaml", close):
        web1.run("systemctl stop fleetmesh-agent")
        try:
            for host, port in ((api1, 8000), (consul1, 8500)):
                assert web1.curl(host.url(port), user="web", timeout=3).status == 0
            assert web1.curl(consul1.url(8500, "/v1/status/leader")).status == 200
        finally:
            web1.run("systemctl start fleetmesh-agent")
        web1.wait_ready()
        assert ask(fleet).status == 200
    web1.run("fleetmesh capture confirm", check=False)


def test_unit_restart_is_the_same_again(fleet: Fleet) -> None:
    """After a restart: ports, identities and rules as before."""
    shop1 = fleet["shop1"]
    before = _state(shop1)
    shop1.run("systemctl restart fleetmesh-agent")
    shop1.wait_ready()
    eventually(lambda: _state(shop1) == before, 15, "the same state", every=0.5)


def _state(host: Host) -> dict[str, Any]:
    status = host.status()
    return {
        "services": {
            service["name"]: (
                service["outbound_port"],
                service["sidecar_port"],
                service["identity"]["spiffe_id"],
                service["registered"],
            )
            for service in status["services"]
        },
        "capture": status["capture"]["state"],
        "rules": host.output("nft -s list table inet fleetmesh"),
        "upstreams": {
            upstream["service"]: sorted(e["id"] for e in upstream["target"]["endpoints"])
            for upstream in status["upstreams"]
        },
    }


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_host_comes_back_the_same(fleet: Fleet, evidence: Evidence, how: str) -> None:
    """Reboot of the caller, power cut of a callee: the same ports, identities, rules, traffic."""
    host = fleet["web1" if how == "reboot" else "api2"]
    before = _state(host)
    boot = host.output("cat /proc/sys/kernel/random/boot_id")
    began = time.monotonic()
    if how == "reboot":
        host.run("systemctl reboot", check=False)
    else:
        fleet.machine("power-cut", host.name)
        if host.name != "web1":
            assert {ask(fleet).instance for _ in range(1)} <= {"api1/api", "api2/api"}
        fleet.machine("start", host.name)

    def booted() -> bool:
        done = host.run("cat /proc/sys/kernel/random/boot_id", check=False, timeout=15)
        return done.returncode == 0 and done.stdout.strip() != boot

    eventually(booted, 60, f"{host.name} is up again", every=0.5)
    host.wait_ready(60)
    eventually(lambda: ask(fleet).status == 200, 30, "web is served")
    evidence(f"{how} of {host.name}: served after {time.monotonic() - began:.1f} s")
    eventually(lambda: _state(host) == before, 60, f"{host.name}: the same state", every=0.5)
    eventually(
        lambda: host.run("fleetmesh check", check=False).returncode == 0,
        30,
        "check is content",
        every=1,
    )


def test_whole_lab_comes_back_the_same(fleet: Fleet, evidence: Evidence) -> None:
    """Every host stopped, Consul's server too, and all started at once: the same state again."""
    before = {host.name: _state(host) for host in fleet.mesh}
    began = time.monotonic()
    fleet.machine("stop", *fleet.hosts)
    fleet.machine("start", *fleet.hosts)
    booted = time.monotonic()
    for host in fleet.mesh:
        host.wait_ready(60)
    eventually(lambda: ask(fleet).status == 200, 60, "web is served", every=0.5)
    evidence(
        f"six hosts stopped and booted in {booted - began:.0f} s, "
        f"served {time.monotonic() - booted:.0f} s later"
    )
    eventually(
        lambda: {host.name: _state(host) for host in fleet.mesh} == before,
        60,
        "the same state",
        every=0.5,
    )
