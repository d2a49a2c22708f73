"""What fails of the mesh itself, or beneath it, has the outcome that docs/operations.md declares:
the rows of its table that no other test has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.test_70_survival import account_text, ask
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet
from tests.support.hosts import CommandError, Host, eventually
from tests.support.wire import Wire

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


def test_a_rollout_of_a_broken_release_fails_and_tells(
    fleet: Fleet, evidence: Evidence, logs: Path
) -> None:
    web1 = fleet["web1"]
    eventually(lambda: has_served(web1), 60, "the release has served", every=1)
    good = install_broken(web1, "exits at once")
    options = ["--limit", "web1", "-e", f"fleetmesh_agent_version={BROKEN}"]
    try:
        with pytest.raises(CommandError, match=f"{BROKEN.replace('+', '.')} was given up for"):
            fleet.playbook("site", *options, log=logs / "site-broken.log")
        assert running(web1) == good
        assert ask(fleet).status == 200
        assert good in web1.output("fleetmesh release list 2>/dev/null; true")
    finally:
        remove_broken(web1, good)


@pytest.mark.parametrize("on_stop", ["open", "closed"])
def test_an_agent_that_crashes_in_a_loop_leaves_what_is_declared(
    fleet: Fleet, evidence: Evidence, on_stop: str
) -> None:
    """With no release to fall back to, the agent gives up: open lets the service go directly,
    closed keeps its connections refused."""
    web1, api1 = fleet["web1"], fleet["api1"]

    def declare(document: dict[str, Any]) -> None:
        document["on_stop"] = on_stop

    with web1.edited("/etc/fleetmesh/services.d/web.yaml", declare):
        good = install_broken(web1, "exits at once")
        web1.run("rm -f /opt/fleetmesh/previous")
        try:
            began = time.monotonic()
            web1.run(f"ln -sfn releases/{BROKEN} /opt/fleetmesh/current")
            web1.run("systemctl restart fleetmesh-agent", check=False)
            eventually(
                lambda: (
                    web1.output(
                        "systemctl show --value -p ActiveState fleetmesh-agent fleetmesh-failsafe"
                    ).split()
                    == ["failed", "inactive"]
                ),
                60,
                "the agent gives up",
                every=0.5,
            )
            evidence(f"gave up after {time.monotonic() - began:.0f} s")
            if on_stop == "open":
                with Wire(fleet.netns("fabric"), "web1") as wire:
                    answer = web1.curl(api1.url(8000, "/direct"), user="web")
                # In the clear as far as api1, whose agent takes nothing that is.
                assert (answer.status, "plaintext" in answer.body) == (403, True)
                assert wire.said("GET /direct")
            else:
                assert web1.curl(api1.url(8000), user="web", timeout=3).status == 0
                leader = fleet["consul1"].url(8500, "/v1/status/leader")
                assert web1.curl(leader).status == 200
        finally:
            remove_broken(web1, good)
    web1.run("fleetmesh capture confirm", check=False)


def test_the_hosts_resolvers_are_gone(fleet: Fleet) -> None:
    """Names of the mesh are the agent's own to answer, and addresses need no name."""
    web1 = fleet["web1"]
    before = web1.run("cat /etc/resolv.conf", check=False).stdout
    web1.run("cat > /etc/resolv.conf", stdin="nameserver 192.0.2.1\noptions timeout:1 attempts:1\n")
    try:
        assert web1.curl("http://api.mesh/", user="web").status == 200
        assert ask(fleet).status == 200
        other = web1.curl("http://www.example.com/", user="web", timeout=8)
        assert other.status == 0
        assert "resolve" in other.error.lower(), other.error
    finally:
        web1.run("cat > /etc/resolv.conf", stdin=before)
