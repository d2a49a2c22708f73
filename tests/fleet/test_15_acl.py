"""Tokens on hosts, in a lab with ACLs that deny by default (FLEETMESH_LAB_ACL=1): who holds which,
where none stands, and a rotation."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.support.evidence import Evidence
from tests.support.fleet import AGENT_TOKEN, MANAGEMENT_TOKEN, Fleet
from tests.support.hosts import eventually

pytestmark = pytest.mark.skipif(
    os.environ.get("FLEETMESH_LAB_ACL") != "1", reason="a lab without ACLs"
)


def tokens(fleet: Fleet, policy: str) -> list[dict[str, Any]]:
    policies = fleet.consul("GET", "/v1/acl/policies")
    found = next(one["ID"] for one in policies if one["Name"] == policy)
    listed: list[dict[str, Any]] = fleet.consul("GET", f"/v1/acl/tokens?policy={found}")
    return listed


def test_who_asks_without_a_token_is_told_nothing(fleet: Fleet) -> None:
    web1 = fleet["web1"]
    assert web1.curl("http://127.0.0.1:8500/v1/catalog/nodes").json() == []
    assert web1.curl("http://127.0.0.1:8500/v1/agent/self").status == 403


def test_tokens_lie_where_root_alone_reads_them(fleet: Fleet, evidence: Evidence) -> None:
    """Each host has its own; the management token lies on the server and nowhere else."""
    assert fleet["consul1"].output(f"stat -c '%U %a' {MANAGEMENT_TOKEN}") == "root 600"
    seen = set()
    for host in fleet.mesh:
        assert host.output(f"stat -c '%U %G %a' {AGENT_TOKEN}") == "root root 600"
        assert host.run(f"test -e {MANAGEMENT_TOKEN}", check=False).returncode == 1
        assert host.run(f"cat {AGENT_TOKEN}", user="fleetmesh", check=False).returncode != 0
        seen.add(host.output(f"cat {AGENT_TOKEN}"))
    assert len(seen) == len(fleet.mesh)
    evidence(f"{len(seen)} hosts, {len(seen)} tokens")


def test_a_token_stands_in_no_unit_argument_environment_or_log(fleet: Fleet) -> None:
    """Looked for as a file of patterns, so that it stands in no argument here either."""
    for host in fleet.mesh:
        pid = host.status()["pid"]
        host.run("tr -d '\\n' < " + AGENT_TOKEN + " > /run/pattern")
        for where in (
            "systemctl cat --no-pager 'fleetmesh-*'",
            "systemctl show --no-pager fleetmesh-agent",
            f"cat /proc/{pid}/cmdline /proc/{pid}/environ",
            "journalctl --no-pager -b",
            "cat /etc/fleetmesh/agent.yaml",
        ):
            found = host.run(f"{where} | grep -a -c -f /run/pattern", check=False)
            assert found.stdout.strip() == "0", (host.name, where)
        host.run("rm /run/pattern")


def test_no_agent_was_denied_what_it_asked(fleet: Fleet) -> None:
    """With the shipped policy: not one Permission denied in any journal."""
    for host in fleet.mesh:
        journal = host.output("journalctl -b -u fleetmesh-agent --no-pager -o cat")
        assert "Permission denied" not in journal, host.name
        assert "agent" in journal


def test_rotation_by_reload(fleet: Fleet, evidence: Evidence) -> None:
    """A second token, a reload, the first one deleted: the services stay registered, and one that
    is deregistered leaves the catalog."""
    web1, api1 = fleet["web1"], fleet["api1"]
    pid = web1.status()["pid"]
    before = tokens(fleet, "fleetmesh-web1")
    made = fleet.consul("PUT", "/v1/acl/token", {"Policies": [{"Name": "fleetmesh-web1"}]})
    web1.run(f"cat > {AGENT_TOKEN}", stdin=made["SecretID"] + "\n")
    web1.run("systemctl reload fleetmesh-agent")
    eventually(
        lambda: (
            "again, with another token"
            in web1.output("journalctl -b -u fleetmesh-agent --no-pager -o cat")
        ),
        15,
        "the services are registered with the new token",
    )
    for old in before:
        fleet.consul("DELETE", f"/v1/acl/token/{old['AccessorID']}")
    web1.run("systemctl reload fleetmesh-agent")
    status = web1.status()
    assert status["pid"] == pid
    eventually(lambda: web1.status()["consul"]["error"] == "", 15, "Consul takes the new token")
    assert web1.service("web")["registered"]
    assert web1.curl_until(200, api1.url(8000), user="web").instance
    assert web1.output(f"stat -c '%U %G %a' {AGENT_TOKEN}") == "root root 600"
    evidence(f"agent {pid} kept running on the second token")
