"""What a lab is, and what it owns on this machine.

Everything lies in one directory per lab. A name is recorded as owned before the thing is made, so
that a run killed between the two leaves at worst a record of nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LABS = Path("/var/lib/fleetmesh-lab")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class LabError(Exception):
    """The lab cannot do what it was asked to; the message says why and what helps."""


@dataclass(frozen=True)
class App:
    """One application of a host: it runs as the user of its service's name."""

    service: str
    port: int


@dataclass(frozen=True)
class User:
    """A user of a host."""

    name: str
    uid: int


@dataclass(frozen=True)
class HostSpec:
    """One host as the inventory lists it."""

    name: str
    address: str
    address6: str
    users: tuple[User, ...]
    apps: tuple[App, ...]


@dataclass(frozen=True)
class LabSpec:
    """The lab as the inventory lists it. Prefix lengths are in bits."""

    hosts: tuple[HostSpec, ...]
    control: str
    control6: str
    prefix: int
    prefix6: int

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> LabSpec:
        """The specification that the role gives. Raises LabError naming what is missing."""
        try:
            hosts = tuple(
                HostSpec(
                    name=host["name"],
                    address=host["address"],
                    address6=host["address6"],
                    users=tuple(User(user["name"], user["uid"]) for user in host["users"]),
                    apps=tuple(App(app["service"], app["port"]) for app in host["apps"]),
                )
                for host in raw["hosts"]
            )
            return cls(hosts, raw["control"], raw["control6"], raw["prefix"], raw["prefix6"])
        except (KeyError, TypeError) as error:
            raise LabError(f"the lab's specification lacks {error}") from error


@dataclass(frozen=True)
class Lab:
    """Names and paths of one lab."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(
                f"LAB={self.name!r} is no lab name: a lower-case letter, then letters, digits and "
                "hyphens, 31 characters at most"
            )

    @property
    def directory(self) -> Path:
        return LABS / self.name

    @property
    def control(self) -> str:
        """Network namespace that commands, tests and load run from."""
        return self.netns("control")

    @property
    def fabric(self) -> str:
        """Network namespace of the bridge between all hosts."""
        return self.netns("fabric")

    def netns(self, host: str) -> str:
        return f"fm-{self.name}-{host}"

    def host_directory(self, host: str) -> Path:
        return self.directory / "hosts" / host

    def spec(self) -> LabSpec | None:
        """The specification last asked for, or None if there is none yet. Raises LabError."""
        try:
            raw = json.loads((self.directory / "spec.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            # Half a file is what a killed run leaves; the next one writes it whole.
            return None
        return LabSpec.from_json(raw)

    def keep(self, spec: LabSpec) -> None:
        """Record the specification that the lab is to follow."""
        write_atomically(self.directory / "spec.json", json.dumps(asdict(spec), indent=2))

    def known_hosts(self) -> list[str]:
        """Names of the hosts that have a directory here, in the specification or not."""
        try:
            return sorted(entry.name for entry in (self.directory / "hosts").iterdir())
        except FileNotFoundError:
            return []

    def owned_netns(self) -> list[str]:
        """Network namespaces that this lab made, or was about to make."""
        try:
            return (self.directory / "netns").read_text().split()
        except FileNotFoundError:
            return []

    def own_netns(self, name: str) -> None:
        """Record a namespace, before it is made."""
        with (self.directory / "netns").open("a") as record:
            record.write(name + "\n")
            record.flush()
            os.fsync(record.fileno())

    @contextlib.contextmanager
    def locked(self, patience: float = 120.0) -> Iterator[None]:
        """Hold the lab against other runs of up and down. Raises LabError after `patience` s."""
        deadline = time.monotonic() + patience
        while True:
            LABS.mkdir(exist_ok=True)
            try:
                self.directory.mkdir(mode=0o700, exist_ok=True)
                descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # the last lab before us was just removed
            try:
                if _locks(descriptor) and _is_at(descriptor, self.directory):
                    yield
                    return
            finally:
                os.close(descriptor)
            if time.monotonic() > deadline:
                raise LabError(f"lab {self.name} is in use by another run")
            time.sleep(0.2)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    # The holder before us may have removed the directory that we waited for.
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` by rename: readers see the old text or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    temporary.rename(path)


@dataclass(frozen=True)
class ProcessId:
    """A process told apart from a later one of the same number."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process of this number now, None if there is none."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        if fields[0] in "ZX":
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(pid, int(fields[19]), boot)

    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self
