"""Proof 1: the rollout converges, and says so."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from tests.support.evidence import Evidence
from tests.support.fleet import Fleet

_RECAP = re.compile(r"^(\S+)\s+: (ok=\d+.*)$", re.MULTILINE)


def recap(output: str) -> dict[str, dict[str, int]]:
    """PLAY RECAP of an ansible run: counts by host."""
    _, separator, tail = output.rpartition("PLAY RECAP")
    assert separator, output[-2000:]
    return {
        host: {key: int(value) for key, value in (pair.split("=") for pair in counts.split())}
        for host, counts in _RECAP.findall(tail)
    }


def changes(output: str) -> list[str]:
    """The lines that say which task changed what."""
    task = ""
    found = []
    for line in output.splitlines():
        if line.startswith(("TASK [", "RUNNING HANDLER [")):
            task = line.split("]")[0] + "]"
        elif line.startswith("changed:"):
            found.append(f"{task} {line}")
    return found


def test_second_run_changes_nothing(fleet: Fleet, evidence: Evidence, logs: Path) -> None:
    """site.yml on a converged fleet: changed=0 on every host, nothing failed or unreachable."""
    began = time.monotonic()
    output = fleet.playbook("site", log=logs / "site-second.log")
    evidence(f"site.yml again: {time.monotonic() - began:.0f} s")
    hosts = recap(output)
    assert set(fleet.hosts) <= set(hosts)
    for host, counts in hosts.items():
        assert counts["changed"] == 0, (host, changes(output))
        assert counts["failed"] == counts["unreachable"] == 0, (host, counts)


def test_check_mode_promises_no_change(fleet: Fleet, evidence: Evidence, logs: Path) -> None:
    """--check --diff on a converged fleet: no change, no diff, no failure."""
    began = time.monotonic()
    output = fleet.playbook("site", "--check", "--diff", log=logs / "site-check.log")
    evidence(f"site.yml --check --diff: {time.monotonic() - began:.0f} s")
    for host, counts in recap(output).items():
        assert counts["changed"] == 0, (host, changes(output))
        assert counts["failed"] == counts["unreachable"] == 0, (host, counts)
    assert "\n--- before" not in output
    assert not re.search(r"^[-+]{3} ", output, re.MULTILINE)


def test_unit_is_hardened(fleet: Fleet, evidence: Evidence) -> None:
    """systemd-analyze's exposure of the agent's unit is at most 3.0 on every host."""
    for host in fleet.mesh:
        shown = host.output("systemd-analyze security --no-pager fleetmesh-agent.service | tail -1")
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
        assert level, shown
        evidence(f"{host.name}: exposure {level[1]}")
        assert float(level[1]) <= 3.0


def test_processes_have_what_they_need_and_no_more(fleet: Fleet) -> None:
    """The controller keeps CAP_NET_ADMIN alone, workers no capability at all; nobody is root."""
    net_admin = 1 << 12
    for host in fleet.mesh:
        status = host.status()
        controller = capabilities(host.output(["cat", f"/proc/{status['pid']}/status"]))
        assert controller["CapEff"] == controller["CapPrm"] == net_admin
        assert controller["CapBnd"] == net_admin
        uid = int(host.output("id -u fleetmesh"))
        assert controller["Uid"] == uid
        assert len(status["workers"]) == int(host.output("nproc"))
        for worker in status["workers"]:
            held = capabilities(host.output(["cat", f"/proc/{worker['pid']}/status"]))
            assert held["Uid"] == uid
            assert held["NoNewPrivs"] == 1
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert held[kind] == 0, (host.name, worker, kind)


def capabilities(status: str) -> dict[str, int]:
    """Real uid, NoNewPrivs and the capability sets of a /proc/PID/status."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    found = {key: int(value, 16) for key, value in fields.items() if key.startswith("Cap")}
    return found | {"Uid": int(fields["Uid"].split()[0]), "NoNewPrivs": int(fields["NoNewPrivs"])}


def test_hosts_needed_no_package_index(fleet: Fleet) -> None:
    """The agent runs from its release directory, on the hosts' own Python; what is compiled was
    compiled elsewhere."""
    for host in fleet.mesh:
        target = host.output("readlink -f /usr/local/bin/fleetmesh")
        assert target.startswith("/opt/fleetmesh/releases/"), target
        assert host.run("command -v cc gcc", check=False).returncode != 0
        said = json.loads(host.output("fleetmesh version --json"))
        assert said["version"] == host.status()["version"]
        assert said["compiled"]


def test_registered_with_checks(fleet: Fleet) -> None:
    """Consul lists every service, its sidecar and their checks, all passing."""
    wanted = {"web": 1, "api": 2, "cart": 1, "orders": 1, "api-tcp": 2}
    for service, instances in wanted.items():
        plain = fleet.consul("GET", f"/v1/health/service/{service}")
        sidecars = fleet.consul("GET", f"/v1/health/connect/{service}")
        assert len(plain) == len(sidecars) == instances, service
        for entry in plain + sidecars:
            own = [check for check in entry["Checks"] if check["ServiceID"]]
            assert own, (service, "no check of its own")
            assert {check["Status"] for check in own} == {"passing"}, own
        for entry in sidecars:
            assert entry["Service"]["Kind"] == "connect-proxy"
            assert entry["Service"]["Proxy"]["DestinationServiceName"] == service
            # TCP to the sidecar's port, an alias of the service, the proxy's own heartbeat.
            assert len([c for c in entry["Checks"] if c["ServiceID"]]) >= 3, entry["Checks"]
        versions = {entry["Service"]["Meta"].get("version") for entry in sidecars}
        if service == "api":
            assert versions == {"v1", "v2"}


def test_consul_ui_is_served(fleet: Fleet) -> None:
    """The UI's page comes from the server."""
    page = fleet["consul1"].curl("http://127.0.0.1:8500/ui/")
    assert page.status == 200
    assert "consul-ui" in page.body


def test_memory(fleet: Fleet, evidence: Evidence) -> None:
    """Controller and workers stay below 150 MB a host (proportional set size)."""
    for host in fleet.mesh:
        status = host.status()
        sizes = {}
        for name, pid in [("controller", status["pid"])] + [
            (f"worker {number}", worker["pid"]) for number, worker in enumerate(status["workers"])
        ]:
            rollup = host.output(["grep", "-m1", "^Pss:", f"/proc/{pid}/smaps_rollup"])
            sizes[name] = int(rollup.split()[1]) / 1024
        text = ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
        evidence(f"{host.name}: {text}; together {sum(sizes.values()):.1f} MB")
        assert sum(sizes.values()) < 150
