"""Proof 7, last of all: nothing is left of the mesh, and the applications still talk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.fleet.test_10_rollout import recap
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet


@pytest.fixture(scope="module")
def uninstalled(fleet: Fleet, logs: Path) -> float:
    """The seconds that uninstall.yml took."""
    began = time.monotonic()
    output = fleet.playbook("uninstall", log=logs / "uninstall.log")
    for host, counts in recap(output).items():
        assert counts["failed"] == counts["unreachable"] == 0, (host, counts)
    return time.monotonic() - began


def test_nothing_is_left(fleet: Fleet, evidence: Evidence, uninstalled: float) -> None:
    """No table, unit, file, process, user, socket, and no registration in Consul."""
    evidence(f"uninstall.yml: {uninstalled:.0f} s")
    for host in fleet.mesh:
        assert "fleetmesh" not in host.output("nft list ruleset")
        units = host.output(
            "systemctl list-units --all --no-legend --plain; systemctl list-unit-files --no-legend"
        )
        assert "fleetmesh" not in units
        left = host.run(
            "find / /run /tmp /dev/shm -xdev -iname '*fleetmesh*' 2>/dev/null",
            check=False,
        ).stdout
        assert left.strip() == "", left
        # Not this very command: the pattern does not match itself.
        assert host.run("pgrep -af '[f]leetmesh'", check=False).stdout == ""
        assert host.run("getent passwd fleetmesh", check=False).returncode != 0
        assert host.run("getent group fleetmesh", check=False).returncode != 0
        listening = host.output("ss -Htln")
        for port in (":15006 ", ":15020 ", ":15100 ", ":21000 "):
            assert port not in listening, listening
    services = fleet.consul("GET", "/v1/catalog/services")
    assert set(services) == {"consul"}, services
    for host in fleet.mesh:
        assert fleet.consul("GET", f"/v1/health/node/{host.name}")
        for check in fleet.consul("GET", f"/v1/health/node/{host.name}"):
            assert not check["ServiceID"], check


def test_applications_talk_directly(fleet: Fleet, uninstalled: float) -> None:
    """web, cart and orders reach what they call, in the clear, over both families."""
    for caller, user in (("web1", "web"), ("shop1", "cart"), ("shop1", "orders")):
        for family in (4, 6):
            answer = fleet[caller].curl(fleet["api1"].url(8000, family=family), user=user)
            assert answer.instance == "api1/api"
            assert answer.received("x-forwarded-client-cert") == ""
    assert fleet["legacy1"].curl(fleet["api2"].url(8000), user="legacy").instance == "api2/api"


def test_second_uninstall_changes_nothing(
    fleet: Fleet, evidence: Evidence, logs: Path, uninstalled: float
) -> None:
    """uninstall.yml is idempotent."""
    began = time.monotonic()
    output = fleet.playbook("uninstall", log=logs / "uninstall-second.log")
    evidence(f"uninstall.yml again: {time.monotonic() - began:.0f} s")
    for host, counts in recap(output).items():
        assert counts["changed"] == counts["failed"] == 0, (host, counts)
