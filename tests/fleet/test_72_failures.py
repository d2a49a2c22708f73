"""A release that fails is given up for the one before, on real hosts under load."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.fleet.test_70_survival import account_text, ask
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import Host, eventually

RELEASES = "/opt/fleetmesh/releases"
BROKEN = "9.9.9+broken"
PACKAGE = "lib/python3.11/site-packages/fleetmesh"
HOW = {
    "exits at once": ("process/controller.py", "def run(*_): return 1"),
    "never gets ready": ("process/controller.py", 'def run(*_): __import__("time").sleep(600)'),
    "has workers that die": ("process/worker.py", "def main(): return 1"),
}


def running(host: Host) -> str:
    return str(host.status()["releases"]["running"])


def has_served(host: Host) -> bool:
    return running(host) in host.status()["releases"]["ready"]


def install_broken(host: Host, how: str) -> str:
    """A copy of the release that runs, broken; the one that runs."""
    good = running(host)
    file, code = HOW[how]
    host.run(
        f"set -e; cd {RELEASES}; rm -rf {BROKEN}; cp -a {good} {BROKEN}; "
        f"sed -i '1s#/{good}/#/{BROKEN}/#' {BROKEN}/bin/fleetmesh; "
        f"touch {BROKEN}/.complete; cd {BROKEN}/{PACKAGE}; "
        # Before the last statement of a module that runs as a program.
        f"sed -i 's#^if __name__ == .*#{code}\\n\\n&#' {file}; "
        f"grep -qx '{code}' {file} || echo '{code}' >> {file}"
    )
    return good


def remove_broken(host: Host, good: str) -> None:
    program = f"{RELEASES}/{good}/bin/fleetmesh"
    host.run(
        f"{program} release use --no-restart {good} && systemctl reset-failed 'fleetmesh*'; "
        f"systemctl start fleetmesh-agent; rm -rf {RELEASES}/{BROKEN}"
    )
    host.wait_ready()
    host.run("fleetmesh capture confirm", check=False)


@pytest.fixture(autouse=True)
def _mesh_is_whole(fleet: Fleet) -> Iterator[None]:
    yield
    for host in fleet.mesh:
        host.wait_ready()
    eventually(
        lambda: {ask(fleet).instance for _ in range(4)} == {"api1/api", "api2/api"},
        30,
        "both instances are back",
    )


@pytest.mark.parametrize("name", ["web1", "api1"])
@pytest.mark.parametrize("how", HOW)
def test_a_broken_release_is_given_up_under_load(
    fleet: Fleet, evidence: Evidence, how: str, name: str
) -> None:
    """On the caller and on a callee: the host goes back to the release before by itself, says so,
    and hardly a request fails."""
    host = fleet[name]
    eventually(lambda: has_served(host), 60, "the release has served", every=1)
    good = install_broken(host, how)
    try:
        url = fleet["api1"].url(8000)
        steady = fleet["web1"].start("steady.py", url, "60", "4", "5", user="web")
        steady.until("open")
        began = time.monotonic()
        used = host.run(f"fleetmesh release use {BROKEN}", check=False, timeout=120)
        told = time.monotonic() - began
        assert used.returncode == 2, used.stdout + used.stderr
        assert f"release {BROKEN} was given up for {good}: it " in used.stderr
        eventually(lambda: running(host) == good, 30, "the release before serves", every=0.5)
        host.wait_ready()
        back = time.monotonic() - began
        steady.close_input()
        account = steady.finish(90)
        evidence(
            f"{name}, a release that {how}: told after {told:.0f} s, back after {back:.0f} s, "
            + account_text(account)
        )
        checked = host.run("fleetmesh check", check=False)
        assert checked.returncode == 1
        assert f"release: {BROKEN} was given up for {good}" in " ".join(checked.stdout.split())
        assert host.journal("FLEETMESH_EVENT=fell_back", since=time.time() - back - 5)
        # One client's request each may wait longer than the client does.
        assert account["failed"] <= 4, account["failures"]
    finally:
        remove_broken(host, good)
    assert host.run("fleetmesh check", check=False).returncode == 0
