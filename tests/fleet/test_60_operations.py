"""What an operator looks at: status, check, metrics, health, journal, reload."""

from __future__ import annotations

import json
import re
import time

from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import eventually

HOUR = 3600.0
CACHE = "/var/lib/fleetmesh/snapshot"


def test_status_shows_everything(fleet: Fleet) -> None:
    """Services, identities, certificates, upstreams, one generation on every worker."""
    shop1 = fleet["shop1"]
    status = shop1.status()
    assert {service["name"] for service in status["services"]} == {"cart", "orders"}
    for service in status["services"]:
        assert service["registered"]
        identity = service["identity"]
        assert identity["spiffe_id"] == fleet.spiffe_id(service["name"])
        assert 71 * HOUR < identity["life"] < 74 * HOUR
        assert identity["life"] / 3 < identity["seconds_left"] <= identity["life"]
        assert identity["workers"] == len(status["workers"])
    upstreams = {upstream["service"]: upstream for upstream in status["upstreams"]}
    endpoints = upstreams["api"]["target"]["endpoints"]
    assert {endpoint["address"] for endpoint in endpoints} == {
        fleet["api1"].address,
        fleet["api2"].address,
    }
    assert {worker["generation"] for worker in status["workers"]} == {status["generation"]}
    assert status["capture"]["state"] == "applied"
    assert not status["capture"]["drift"]
    assert status["consul"]["reachable"]
    assert status["consul"]["last_contact"] < 600
    assert status["problems"] == []


def test_status_reads_well(fleet: Fleet) -> None:
    """The table for people names services, identities and endpoints, and is plain when piped."""
    shown = fleet["shop1"].output("fleetmesh status")
    for word in ("cart", "orders", "api", "spiffe://", fleet["api1"].address):
        assert word in shown, shown
    assert "\x1b[" not in shown


def test_no_key_leaves_the_agent(fleet: Fleet) -> None:
    """Neither status nor the exported snapshot holds a private key, and of all files only what the
    agent starts from while Consul is gone, which nobody else can read."""
    shop1 = fleet["shop1"]
    shop1.run("fleetmesh status --export /root/snapshot.json")
    exported = shop1.output("cat /root/snapshot.json; rm /root/snapshot.json")
    assert "BEGIN CERTIFICATE" in exported
    assert "PRIVATE KEY" not in exported + json.dumps(shop1.status())
    found = shop1.run(
        "grep -rl 'PRIVATE KEY' /etc/fleetmesh /run/fleetmesh /var/lib/fleetmesh", check=False
    )
    assert found.stdout.split() == [CACHE]
    assert shop1.output(f"stat -c '%U %a' {CACHE}").split() == ["fleetmesh", "600"]


def test_check_is_content_with_a_healthy_host(fleet: Fleet, evidence: Evidence) -> None:
    """The doctor ends with 0 on every mesh host."""
    for host in fleet.mesh:
        checked = host.run("fleetmesh check", check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        evidence(f"{host.name}: {len(checked.stdout.splitlines())} lines, exit status 0")


def test_check_finds_what_is_wrong(fleet: Fleet) -> None:
    """A stopped agent is an error, exit status 2 or 3, with the remedy in the output."""
    api2 = fleet["api2"]
    api2.run("systemctl stop fleetmesh-agent")
    try:
        checked = api2.run("fleetmesh check", check=False)
        assert checked.returncode in (2, 3)
        assert "systemctl" in checked.stdout + checked.stderr
        status = api2.run("fleetmesh status", check=False)
        assert status.returncode == 3
        assert "Traceback" not in status.stderr
    finally:
        api2.run("systemctl start fleetmesh-agent")
        api2.wait_ready()


def test_metrics_page(fleet: Fleet) -> None:
    """Requests by code, latencies, connections, expiry, generation, contact: they are there."""
    web1, api1 = fleet["web1"], fleet["api1"]
    labels = {"direction": "outbound", "source": "web", "destination": "api"}
    before = web1.metric("fleetmesh_requests_total", code="404", **labels)
    for _ in range(5):
        assert web1.curl(api1.url(8000, "/?status=404"), user="web").status == 404
    eventually(
        lambda: web1.metric("fleetmesh_requests_total", code="404", **labels) == before + 5,
        5,
        "exactly five more",
    )
    page = web1.output("curl -sS http://127.0.0.1:15020/metrics")
    for name in (
        "fleetmesh_build_info",
        "fleetmesh_request_duration_seconds_bucket",
        "fleetmesh_connections_total",
        "fleetmesh_connections_active",
        "fleetmesh_bytes_total",
        "fleetmesh_snapshot_generation",
        "fleetmesh_consul_last_contact_seconds",
        "fleetmesh_worker_restarts_total",
    ):
        assert re.search(rf"^{name}\b", page, re.MULTILINE), name
    assert web1.metric("fleetmesh_consul_up") == 1
    assert web1.metric("fleetmesh_capture_applied") == 1
    left = web1.metric("fleetmesh_certificate_expiry_seconds", service="web")
    assert HOUR < left < 74 * HOUR
    assert web1.output("curl -sS http://127.0.0.1:15020/healthz -o /dev/null -w '%{http_code}'")
    for path in ("healthz", "readyz"):
        assert web1.curl(f"http://127.0.0.1:15020/{path}").status == 200
    # For this host alone.
    assert fleet["legacy1"].curl(web1.url(15020, "/metrics"), timeout=3).status == 0


def test_bad_settings_change_nothing(fleet: Fleet) -> None:
    """A broken file: reload fails and says where, the old settings stay, traffic goes on."""
    web1, api1 = fleet["web1"], fleet["api1"]
    path = "/etc/fleetmesh/agent.yaml"
    before = web1.run(["cat", path]).stdout
    generation = web1.status()["generation"]
    web1.run(f"cat > {path}", stdin=before + "\nworkerz: 3\n")
    try:
        checked = web1.run(f"fleetmesh validate {path}", check=False)
        assert checked.returncode == 2
        assert re.search(r"agent\.yaml:\d+: workerz: ", checked.stderr), checked.stderr
        assert "workers" in checked.stderr
        assert web1.run("systemctl reload fleetmesh-agent", check=False).returncode != 0
        problems = eventually(lambda: web1.status()["problems"], 5, "status has the problem")
        assert "workerz" in json.dumps(problems)
        assert web1.curl(api1.url(8000), user="web").status == 200
        assert web1.status()["generation"] >= generation
    finally:
        web1.run(f"cat > {path}", stdin=before)
        web1.run("systemctl reload fleetmesh-agent")
    assert web1.status()["problems"] == []


def test_service_comes_and_goes(fleet: Fleet) -> None:
    """A service file added and removed: registered, with an identity; then gone from Consul."""
    web1 = fleet["web1"]
    path = "/etc/fleetmesh/services.d/spare.yaml"
    web1.run(f"cat > {path}", stdin="name: spare\nport: 8080\nprotocol: http\nid: spare-1\n")
    refused = web1.run("fleetmesh reload", check=False)
    # Port 8080 is web's: one application port cannot be two services.
    assert refused.returncode != 0
    web1.run(f"cat > {path}", stdin="name: spare\nport: 8090\nprotocol: tcp\n")
    try:
        web1.run("fleetmesh reload")
        eventually(
            lambda: (
                web1.service("spare")["identity"]["serial"]
                and fleet.consul("GET", "/v1/health/connect/spare")
            ),
            10,
            "spare is in the mesh",
        )
    finally:
        web1.run(f"rm {path} && fleetmesh reload")
    eventually(
        lambda: (
            fleet.consul("GET", "/v1/health/connect/spare") == []
            and fleet.consul("GET", "/v1/catalog/service/spare") == []
        ),
        10,
        "spare is gone",
    )
    assert fleet.consul("GET", "/v1/catalog/service/web")


def test_reload_breaks_no_connection(fleet: Fleet) -> None:
    """Ten reloads under a steady client and an open stream: nothing fails."""
    web1, api1 = fleet["web1"], fleet["api1"]
    stream = web1.start("stream.py", "websocket", api1.url(8000, "/ws"), user="web")
    stream.until("open")
    steady = web1.start("steady.py", api1.url(8000), "6", "4", "10", user="web")
    steady.until("open")
    for _ in range(5):
        for host in (web1, api1):
            host.run("systemctl reload fleetmesh-agent")
    account = steady.finish()
    assert account["failed"] == 0, account["failures"]
    assert stream.running


def test_log_lines_can_be_filtered(fleet: Fleet, evidence: Evidence) -> None:
    """Every entry of the agent has a level and a text, events have a field to filter by."""
    seen = set()
    for host in fleet.mesh:
        events = [entry for entry in host.journal() if "FLEETMESH_EVENT" in entry]
        assert events, "no entry carries FLEETMESH_EVENT"
        assert all(entry["MESSAGE"] and entry["PRIORITY"].isdigit() for entry in events)
        seen |= {entry["FLEETMESH_EVENT"] for entry in events}
    evidence(f"events seen: {sorted(seen)}")


def test_idle_costs_little(fleet: Fleet, evidence: Evidence) -> None:
    """Ten idle seconds cost the agent less than a twentieth of a core."""

    def ticks() -> int:
        pids = [status["pid"], *(worker["pid"] for worker in status["workers"])]
        total = 0
        for pid in pids:
            fields = host.output(["cat", f"/proc/{pid}/stat"]).rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total

    host = fleet["shop1"]
    status = host.status()
    before, began = ticks(), time.monotonic()
    time.sleep(10)
    share = (ticks() - before) / 100 / (time.monotonic() - began)
    evidence(f"shop1 idle: {share:.1%} of a core")
    assert share < 0.05
