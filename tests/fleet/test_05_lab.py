"""The lab itself: two hosts of its own, killed and cut in every way, healed and removed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.fleet import ROOT
from tests.support.hosts import LABS, eventually

PROGRAM = ["/usr/bin/python3", str(ROOT / "roles/lab/files/fleetlab")]
NAME = "lab-" + hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
SPEC = {
    "control": "10.77.0.1",
    "control6": "fd77::1",
    "prefix": 24,
    "prefix6": 64,
    "hosts": [
        {
            "name": name,
            "address": f"10.77.0.{number}",
            "address6": f"fd77::{number}",
            "users": [{"name": "api", "uid": 2002}],
            "apps": [{"service": "api", "port": 8000}],
        }
        for name, number in (("one", 31), ("two", 32))
    ],
}


def lab(verb: str, *hosts: str) -> Any:
    """A verb of the lab; its answer. Its messages are in the assertion if it fails."""
    done = subprocess.run(
        [*PROGRAM, verb, "--lab", NAME, *hosts],
        input=json.dumps(SPEC),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def ssh(host: str, command: str) -> str:
    done = subprocess.run(
        ["ssh", "-F", str(LABS / NAME / "ssh_config"), host, command],
        stdin=subprocess.DEVNULL,  # ssh leaves one that it inherits non-blocking
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in listed.stdout.splitlines() if f"fm-{NAME}-" in line]


def leftovers() -> list[str]:
    """Whatever names this lab on the machine: namespaces, processes, cgroups, files."""
    found = namespaces()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"fm-{NAME}-" in line or f"--lab {NAME} " in line:
            found.append(line)
    for directory, subdirectories, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{directory}/{one}" for one in subdirectories if f"fm-{NAME}-" in one]
    return found + [str(path) for path in LABS.glob(NAME)]


@pytest.fixture(autouse=True, scope="module")
def removed() -> Iterator[None]:
    lab("down")
    yield
    lab("down")
    assert leftovers() == []


@pytest.fixture
def up() -> None:
    lab("up")


@pytest.mark.usefixtures("up")
def test_a_lab_that_is_up_stays_as_it_is() -> None:
    """The second run changes nothing."""
    before = lab("status")
    assert lab("up") == {"changed": False}
    assert lab("status") == before


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    ("file", "restarted"),
    [("/etc/hosts", False), ("/etc/systemd/system/api.service", True), ("/opt/lab/app.py", True)],
)
def test_only_an_application_with_new_files_is_restarted(file: str, restarted: bool) -> None:
    """A lab that is made wider or narrower leaves what runs on its other hosts alone."""
    before = ssh("one", "systemctl show -P MainPID api")
    good = ssh("one", f"cat {file}; echo '# another' >> {file}")
    assert lab("up") == {"changed": True}
    assert ssh("one", f"cat {file}") == good
    assert (ssh("one", "systemctl show -P MainPID api") != before) is restarted


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("target", ["10.77.0.32", "[fd77::32]", "two"])
def test_hosts_reach_each_other_by_both_families_and_by_name(target: str) -> None:
    answer = json.loads(ssh("one", f"curl -sSg http://{target}:8000/path?q=1 -H 'X-A: b'"))
    assert answer["instance"] == "two/api"
    assert (answer["method"], answer["path"], answer["query"]) == ("GET", "/path", "q=1")
    assert answer["headers"]["X-A"] == "b"


@pytest.mark.usefixtures("up")
def test_a_destination_outside_the_lab_is_refused_by_control() -> None:
    """The default route exists, and nothing leaves the lab by it."""
    answer = ssh("one", "ping -c1 -W2 192.0.2.1 || true")
    assert "From 10.77.0.1" in answer
    assert "Unreachable" in answer


def reboot(host: str) -> None:
    subprocess.run(
        ["ssh", "-F", str(LABS / NAME / "ssh_config"), host, "systemctl reboot"],
        stdin=subprocess.DEVNULL,
        check=False,
    )


def cut_power_and_start(host: str) -> None:
    lab("power-cut", host)
    assert lab("start", host) == {"changed": True}


def stop_and_start(host: str) -> None:
    lab("stop", host)
    assert lab("start", host) == {"changed": True}


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("off_and_on", [reboot, cut_power_and_start, stop_and_start])
def test_a_host_keeps_its_disk_and_forgets_its_rules(off_and_on: Callable[[str], None]) -> None:
    """Files and machine-id stay; the kernel that forgets nftables rules is not there to do it."""
    boot = ssh("one", "cat /proc/1/stat | cut -d' ' -f22")
    identity = ssh("one", "echo kept > /root/file; sync; nft add table inet t; cat /etc/machine-id")
    off_and_on("one")
    eventually(lambda: ssh("one", "cat /proc/1/stat | cut -d' ' -f22") != boot, 20, "another PID 1")
    lab("wait", "one")
    assert ssh("one", "cat /root/file /etc/machine-id").split() == ["kept", identity]
    assert ssh("one", "nft list ruleset") == ""


@pytest.mark.usefixtures("up")
def test_a_host_whose_launcher_is_killed_goes_down_and_comes_back() -> None:
    before = lab("status")["two"]
    os.kill(before["launcher"], signal.SIGKILL)
    eventually(lambda: lab("status")["two"]["init"] is None, 20, "the host went down")
    assert lab("up") == {"changed": True}
    assert lab("status")["two"]["launcher"] not in (None, before["launcher"])


@pytest.mark.parametrize("after", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("then", ["up", "down"])
def test_a_run_killed_at_any_point_is_healed_or_removed(after: float, then: str) -> None:
    lab("down")
    run = subprocess.Popen(
        [*PROGRAM, "up", "--lab", NAME], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert run.stdin is not None
    run.stdin.write(json.dumps(SPEC).encode())
    run.stdin.close()
    time.sleep(after)
    run.kill()
    run.wait()
    lab(then)
    if then == "up":
        assert lab("up") == {"changed": False}
        assert ssh("two", "hostname") == "two"
    else:
        eventually(lambda: leftovers() == [], 5, "nothing is left")


def test_what_another_made_is_neither_used_nor_removed() -> None:
    """A namespace of the lab's name that the lab did not record is not its own."""
    lab("down")
    foreign = f"fm-{NAME}-one"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        done = subprocess.run(
            [*PROGRAM, "up", "--lab", NAME],
            input=json.dumps(SPEC),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert f"network namespace {foreign} exists, and lab {NAME} did not make it" in done.stderr
        lab("down")
        assert namespaces() == [foreign]
    finally:
        subprocess.run(["ip", "netns", "delete", foreign], check=True)
