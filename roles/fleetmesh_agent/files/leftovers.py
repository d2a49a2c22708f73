"""Print, as a JSON list, what is left of fleetmesh on this host. (Of what was registered with
Consul, registrations.py makes sure.)"""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

PATHS = (
    "/etc/fleetmesh",
    "/etc/modules-load.d/fleetmesh.conf",
    "/etc/sysctl.d/10-fleetmesh.conf",
    "/opt/fleetmesh",
    "/run/fleetmesh",
    "/usr/local/bin/fleetmesh",
    "/var/lib/fleetmesh",
)
UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")


def output(*command: str) -> str:
    """What it prints; nothing when it is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""


def units() -> Iterator[str]:
    for directory in UNIT_DIRECTORIES:
        for path in Path(directory).glob("**/fleetmesh-*"):
            yield f"unit file {path}"
    listed = output("systemctl", "list-units", "--all", "--plain", "--no-legend", "fleetmesh-*")
    for line in listed.splitlines():
        yield f"unit {line.split()[0]}"


def processes() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            program = (entry / "exe").readlink()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = any(word.startswith(b"/opt/fleetmesh/") for word in words)
        if ours or program.is_relative_to("/opt/fleetmesh"):
            yield f"process {entry.name}"


def accounts() -> Iterator[str]:
    for kind, find in (("user", pwd.getpwnam), ("group", grp.getgrnam)):
        try:
            find("fleetmesh")
        except KeyError:
            continue
        yield f"{kind} fleetmesh"


def leftovers() -> Iterator[str]:
    if "table inet fleetmesh" in output("nft", "list", "tables", "inet").splitlines():
        yield "nftables table inet fleetmesh"
    yield from units()
    yield from processes()
    if "/run/fleetmesh/" in Path("/proc/net/unix").read_text():
        yield "a socket in /run/fleetmesh"
    yield from accounts()
    yield from (path for path in PATHS if os.path.lexists(path))


if __name__ == "__main__":
    print(json.dumps(list(leftovers())))
