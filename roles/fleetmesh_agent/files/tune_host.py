"""Raise limits of this host's kernel to what a mesh host needs, and undo that.

    tune_host.py WANTED [--check]     WANTED is a JSON object: sysctl → value
    tune_host.py --undo [--check]

Values are only ever raised: a number to the larger one, a range of ports to the wider one, a set
of ports to the union. What is raised stands in /etc/sysctl.d for the next boot, under a name that
comes first, so that any other file has the last word; what was there before is kept for --undo,
which leaves alone what somebody else has changed since. What this host does not have, or does not
let be written (a container), is told and is no failure.

Prints a JSON object: `changed`, and `told`, a list of sentences.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

SYSCTL_FILE = "etc/sysctl.d/10-fleetmesh.conf"
MODULES_FILE = "etc/modules-load.d/fleetmesh.conf"
MEMORY = "opt/fleetmesh/tuning.json"
RANGE = "net.ipv4.ip_local_port_range"
RESERVED = "net.ipv4.ip_local_reserved_ports"
CONNTRACK = "net.netfilter.nf_conntrack_max"
WHY = {
    "net.core.somaxconn": "Connections that wait in a listener's queue until a worker accepts: a "
    "whole restart's worth. Listeners ask for 4096.",
    RANGE: "Ports of connections that this host begins: one for each to the same destination.",
    RESERVED: "The agent's own ports, so that no connection takes one of them for its near end.",
    CONNTRACK: "Connections that the kernel tracks; captured ones are among them. A full table "
    "drops new ones.",
}


def ports(text: str) -> set[int]:
    """Of a set as the kernel writes it.

    >>> sorted(ports("7,10-12"))
    [7, 10, 11, 12]
    """
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


def text_of(found: set[int]) -> str:
    """A set as the kernel writes it.

    >>> text_of({7, 10, 11, 12})
    '7,10-12'
    """
    parts: list[list[int]] = []
    for port in sorted(found):
        if parts and parts[-1][1] == port - 1:
            parts[-1][1] = port
        else:
            parts.append([port, port])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in parts)


def raised(key: str, found: str, wanted: str) -> str:
    """What the value becomes: never less than it is."""
    if key == RESERVED:
        return text_of(ports(found) | ports(wanted))
    if key == RANGE:
        (low, high), (lowest, highest) = map(int, found.split()), map(int, wanted.split())
        return f"{min(low, lowest)} {max(high, highest)}"
    return str(max(int(found), int(wanted)))


def plain(value: str) -> str:
    return " ".join(value.split())


class Host:
    """Files below `root`; with `check` nothing is written."""

    def __init__(self, root: Path, check: bool) -> None:
        self.root = root
        self.check = check
        self.changed = False
        self.told: list[str] = []
        try:
            self.memory: dict[str, dict[str, str]] = json.loads((root / MEMORY).read_text())
        except (OSError, ValueError):
            self.memory = {}

    def read(self, key: str) -> str | None:
        try:
            return plain(self._of(key).read_text())
        except OSError:
            return None

    def write(self, key: str, value: str) -> bool:
        """Whether the kernel took it; with `check`, whether it may."""
        try:
            if not self.check:
                self._of(key).write_text(f"{value}\n")
            elif not os.access(self._of(key), os.W_OK):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        except OSError as error:
            self.told.append(f"{key} cannot be written here: {error.strerror}")
            return False
        self.changed = True
        return True

    def tune(self, wanted: dict[str, str]) -> None:
        for key, value in wanted.items():
            found = self.read(key)
            if found is None:
                self.told.append(f"{key} is not there: nothing of it is used, or not shown here")
                continue
            after = raised(key, found, plain(value))
            if after != found and self.write(key, after):
                before = self.memory.get(key, {"before": found})["before"]
                self.memory[key] = {"before": before, "set": after}
        self.keep()

    def undo(self) -> None:
        for key, values in self.memory.items():
            found = self.read(key)
            if found == values["set"]:
                self.write(key, values["before"])
            elif found is not None:
                self.told.append(f"{key} is {found}, not what was set: it stays")
        self.memory = {}
        self.keep()

    def keep(self) -> None:
        lines = ["# Role fleetmesh_agent: raised for the mesh, undone when it is uninstalled."]
        for key, values in self.memory.items():
            # A leading minus: no failure where it is not there.
            lines += ["", f"# {WHY.get(key, 'As asked for.')}", f"-{key} = {values['set']}"]
        modules = ["# So that its limit can be set at boot.", "nf_conntrack"]
        self.file(SYSCTL_FILE, lines if self.memory else [])
        self.file(MODULES_FILE, modules if CONNTRACK in self.memory else [])
        self.file(MEMORY, [json.dumps(self.memory)] if self.memory else [])

    def file(self, name: str, lines: list[str]) -> None:
        """A file of these lines, or none."""
        path = self.root / name
        text = "".join(f"{line}\n" for line in lines)
        if text == (path.read_text() if path.exists() else ""):
            return
        self.changed = True
        if self.check:
            return
        if not text:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)

    def _of(self, key: str) -> Path:
        return self.root / "proc/sys" / key.replace(".", "/")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument("wanted", nargs="?", default="{}", type=json.loads)
    parser.add_argument("--undo", action="store_true")
    parser.add_argument("--check", action="store_true", help="tell, and change nothing")
    parser.add_argument("--root", type=Path, default=Path("/"))
    options = parser.parse_args(arguments)
    host = Host(options.root, options.check)
    if options.undo:
        host.undo()
    else:
        host.tune(options.wanted)
    return {"changed": host.changed, "told": host.told}


if __name__ == "__main__":
    print(json.dumps(main()))
    sys.exit(0)
