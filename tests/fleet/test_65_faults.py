"""Faults on purpose, and a host that passes by the mesh for a while: both end by themselves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import Answer, Host, eventually

AGENT = "/etc/fleetmesh/agent.yaml"
KEY = "fleetmesh-allow-faults"


@contextlib.contextmanager
def allowed(fleet: Fleet, *callers: str) -> Iterator[None]:
    """The owner of api allows faults of these callers."""
    before = fleet.consul("GET", "/v1/config/service-defaults/api")
    entry = {"Kind": "service-defaults", "Name": "api", "Protocol": before["Protocol"]}
    fleet.consul("PUT", "/v1/config", entry | {"Meta": {KEY: " ".join(callers)}})
    try:
        yield
    finally:
        fleet.consul("PUT", "/v1/config", entry | {"Meta": before.get("Meta") or {}})


def call(fleet: Fleet, *options: str) -> Answer:
    return fleet["web1"].curl(fleet["api1"].url(8000), *options, user="web")


def inject(host: Host, *options: str) -> str:
    """The fault's id, once the agent has heard of the permission."""

    def injected() -> str:
        done = host.run(f"fleetmesh fault inject api {' '.join(options)}", check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition(":")[0]

    return eventually(injected, 5, "the fault is injected")


def test_faults_are_the_callees_to_allow(fleet: Fleet, evidence: Evidence) -> None:
    """Refused without permission; with it requests of one kind fail, visibly, until it is gone."""
    web1 = fleet["web1"]
    began = time.time()
    assert call(fleet).status == 200
    refused = web1.run("fleetmesh fault inject api --abort 503 --percent 100", check=False)
    assert refused.returncode == 2
    assert KEY in refused.stderr

    with allowed(fleet, "web"):
        options = "--abort 503 --percent 100 -H 'x-user: test' --for 60s --why 'game day'"
        fault = inject(web1, options)
        answer = call(fleet, "-H", "x-user: test")
        assert answer.status == 503
        assert answer.headers["x-fleetmesh-fault"] == [f"abort;id={fault}"]
        assert call(fleet).status == 200
        (shown,) = web1.status()["faults"]
        assert (shown["id"], shown["struck"], shown["why"]) == (fault, 1, "game day")
        assert shown["by"] == "root (uid 0)"
        assert fault in web1.output("fleetmesh status")
        explained = web1.run(
            f"fleetmesh explain http GET {fleet['api1'].url(8000)} --from web -H 'x-user: test'",
            check=False,
        )
        assert f"fault {fault} is injected" in explained.stdout
        assert web1.run("fleetmesh check", check=False).returncode == 1
        labels = {"source": "web", "destination": "api", "kind": "abort"}
        assert web1.metric("fleetmesh_faults_injected_total", **labels) >= 1
        assert web1.metric("fleetmesh_faults_active", kind="abort") == 1

    eventually(lambda: call(fleet, "-H", "x-user: test").status == 200, 5, "the permission ends it")
    assert web1.status()["faults"] == []
    logged = [
        (entry["FLEETMESH_EVENT"], entry["FLEETMESH_BY"])
        for event in ("fault_refused", "fault_injected", "fault_ended")
        for entry in web1.journal(f"FLEETMESH_EVENT={event}", since=began)
    ]
    assert ("fault_injected", "root (uid 0)") in logged
    assert {event for event, _ in logged} == {"fault_refused", "fault_injected", "fault_ended"}
    evidence(f"fault {fault}: refused, injected, withdrawn in {time.time() - began:.1f} s")


def test_faults_end_with_their_time_and_with_the_agent(fleet: Fleet) -> None:
    web1 = fleet["web1"]
    with allowed(fleet, "*"):
        inject(web1, "--delay 1s --percent 100 --for 4s")
        asked = time.monotonic()
        answer = call(fleet)
        assert answer.status == 200
        assert time.monotonic() - asked >= 1
        assert answer.headers["x-fleetmesh-fault"][0].startswith("delay;id=")
        eventually(lambda: "x-fleetmesh-fault" not in call(fleet).headers, 8, "its time ends it")
        inject(web1, "--abort 500 --percent 100 --for 1h")
        assert call(fleet).status == 500
        web1.run("systemctl restart fleetmesh-agent")
        web1.wait_ready()
        assert call(fleet).status == 200
        assert web1.status()["faults"] == []


def test_a_host_passes_by_the_mesh_for_a_while(fleet: Fleet, evidence: Evidence) -> None:
    """New connections are plain, which a strict callee refuses; an open one goes on; the rules are
    back when its time is over, through a restart of the agent too."""
    web1 = fleet["web1"]
    began = time.time()
    stream = web1.start("stream.py", "websocket", fleet["api1"].url(8000, "/ws"), user="web")
    stream.until("echo")
    assert call(fleet).status == 200
    web1.run("fleetmesh bypass on --for 10m --why 'is it the mesh?'")
    assert call(fleet).headers["x-fleetmesh-reason"] == ["plaintext"]
    capture = web1.status()["capture"]
    assert (capture["state"], capture["bypass"]["by"]) == ("bypassed", "root (uid 0)")
    checked = web1.run("fleetmesh check", check=False)
    assert checked.returncode == 1
    assert "bypassed for another" in checked.stdout
    assert web1.metric("fleetmesh_capture_bypass_seconds") > 500
    assert web1.metric("fleetmesh_capture_applied") == 0
    web1.run("fleetmesh bypass off")
    assert call(fleet).status == 200
    until = time.time() + 0.5
    while stream.until("echo")["time"] < until:
        pass
    assert stream.running

    web1.run("fleetmesh bypass on --for 8s --why 'restart'")
    web1.run("systemctl restart fleetmesh-agent")
    web1.wait_ready()
    assert web1.status()["capture"]["state"] == "bypassed"
    eventually(lambda: call(fleet).status == 200, 12, "its time ends it")
    assert web1.status()["capture"]["state"] == "applied"
    (first, *_) = web1.journal("FLEETMESH_EVENT=bypass_began", since=began)
    assert first["FLEETMESH_WHY"] == "is it the mesh?"
    evidence("bypass: a websocket went on through it, rules back by themselves")


def test_what_is_to_stay_closed_forbids_it(fleet: Fleet) -> None:
    web1 = fleet["web1"]
    with web1.edited(AGENT, lambda document: document.update(on_stop="closed")):
        refused = web1.run("fleetmesh bypass on --why 'no'", check=False)
        assert refused.returncode == 2
        assert "web is to stay closed" in refused.stderr
        assert call(fleet).status == 200
