"""The files that make a host of the image: who it is, who may enter, what it runs."""

from __future__ import annotations

import os
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleetlab.image import image_path
from fleetlab.state import HostSpec, Lab, LabSpec, User

PROGRAM = "opt/lab/app.py"
"""What every application runs."""
_APP = Path(__file__).parent.parent / "app.py"
_UNIT = """\
[Unit]
Description=Application {service}
After=network.target

[Service]
User={service}
ExecStart=/usr/bin/python3 /opt/lab/app.py --service {service} --port {port}
RuntimeDirectory={service}
Restart=on-failure
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class SeedFile:
    """One file of a host, or a link if it has a target."""

    path: str
    text: str = ""
    mode: int = 0o644
    target: str | None = None


def ensure_keys(lab: Lab, spec: LabSpec) -> bool:
    """Make the lab's login key, each host's key and the client's settings; True if any was new."""
    client = lab.directory / "id_ed25519"
    keys = [client, *(lab.host_directory(host.name) / "ssh_host_key" for host in spec.hosts)]
    changed = False
    for key in keys:
        key.parent.mkdir(parents=True, exist_ok=True)
        if key.exists() and key.with_suffix(".pub").exists():
            continue
        key.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.name, "-f", str(key)],
            check=True,
        )
        changed = True
    (lab.directory / "cp").mkdir(exist_ok=True)
    changed |= put(lab.directory / "known_hosts", _known_hosts(lab, spec))
    changed |= put(lab.directory / "ssh_config", _ssh_config(lab, spec))
    return changed


def host_files(lab: Lab, spec: LabSpec, host: HostSpec) -> list[SeedFile]:
    """Everything that this host has beyond the image, except its machine-id."""
    keys = lab.host_directory(host.name) / "ssh_host_key"
    files = [
        SeedFile("etc/hosts", _hosts_file(spec)),
        SeedFile("etc/hostname", host.name + "\n"),
        SeedFile("etc/ssh/ssh_host_ed25519_key", keys.read_text(), 0o600),
        SeedFile("etc/ssh/ssh_host_ed25519_key.pub", keys.with_suffix(".pub").read_text()),
        SeedFile("root/.ssh/authorized_keys", (lab.directory / "id_ed25519.pub").read_text()),
        SeedFile(PROGRAM, _APP.read_text(), 0o755),
    ]
    for app in host.apps:
        unit = unit_file(app.service)
        files.append(SeedFile(unit, _UNIT.format(service=app.service, port=app.port)))
        wanted = f"etc/systemd/system/multi-user.target.wants/{app.service}.service"
        files.append(SeedFile(wanted, target=f"/{unit}"))
    return files


def unit_file(service: str) -> str:
    return f"etc/systemd/system/{service}.service"


def ensure_seed(root: Path, files: list[SeedFile]) -> set[str]:
    """Put the files below a host's root; the paths of those that were missing or different."""
    changed = set()
    for file in files:
        path = root / file.path
        _make_parents(root, file.path)
        if file.target is None:
            if put(path, file.text, file.mode):
                changed.add(file.path)
        elif not path.is_symlink():
            path.symlink_to(file.target)
            changed.add(file.path)
    return changed


def ensure_accounts(root: Path, users: tuple[User, ...]) -> bool:
    """Add the users that are missing, with groups of the same name and number.

    The host's own additions stay. True if anyone was missing.
    """
    changed = False
    for name in ("passwd", "group", "shadow"):
        path = root / "etc" / name
        # An upper layer that has no such file yet begins with the image's.
        base = path if path.exists() else image_path() / "etc" / name
        text = base.read_text()
        present = {line.split(":", 1)[0] for line in text.splitlines()}
        lines = {
            "passwd": "{0}:x:{1}:{1}::/nonexistent:/bin/sh",
            "group": "{0}:x:{1}:",
            "shadow": "{0}:!:20000::::::",
        }
        added = [
            lines[name].format(user.name, user.uid) for user in users if user.name not in present
        ]
        if added:
            _make_parents(root, f"etc/{name}")
            owner = base.stat()
            put(path, text + "\n".join(added) + "\n", owner.st_mode & 0o777)
            os.chown(path, owner.st_uid, owner.st_gid)
            changed = True
    return changed


def ensure_machine_id(root: Path) -> None:
    """Give the host an identity before its first boot, and never another."""
    path = root / "etc/machine-id"
    if not path.exists():
        _make_parents(root, "etc/machine-id")
        put(path, uuid.uuid4().hex + "\n", 0o444)


def put(path: Path, text: str, mode: int = 0o644) -> bool:
    """Write the file unless it says that already; True if it was written."""
    try:
        if path.read_text() == text:
            return False
    except FileNotFoundError:
        pass
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.rename(path)
    return True


def _make_parents(root: Path, name: str) -> None:
    """Make the parents of a file, with the image's modes: an upper directory's own ones win."""
    for parent in reversed(Path(name).parents[:-1]):
        directory = root / parent
        if not directory.exists():
            directory.mkdir()
            below = image_path() / parent
            directory.chmod(below.stat().st_mode & 0o7777 if below.exists() else 0o755)
    if name.startswith("root/.ssh/"):
        (root / "root/.ssh").chmod(0o700)


def _hosts_file(spec: LabSpec) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{spec.control} control", f"{spec.control6} control"]
    for host in spec.hosts:
        lines += [f"{host.address} {host.name}", f"{host.address6} {host.name}"]
    return "\n".join(lines) + "\n"


def _known_hosts(lab: Lab, spec: LabSpec) -> str:
    lines = []
    for host in spec.hosts:
        key = (lab.host_directory(host.name) / "ssh_host_key.pub").read_text().split()
        lines.append(f"{host.name} {key[0]} {key[1]}\n")
    return "".join(lines)


def _ssh_config(lab: Lab, spec: LabSpec) -> str:
    """Settings for ``ssh -F``: a host by name, or by either of its addresses."""
    blocks = [
        f"Host {host.name} {host.address} {host.address6}\n  HostKeyAlias {host.name}\n"
        for host in spec.hosts
    ]
    blocks += [f"Host {host.name}\n  HostName {host.address}\n" for host in spec.hosts]
    blocks.append(
        "Host *\n"
        "  User root\n"
        f"  IdentityFile {lab.directory}/id_ed25519\n"
        "  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {lab.directory}/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        "  PasswordAuthentication no\n"
        # nc hands its connection over and ends: no process in between, and ssh sees its end.
        f"  ProxyCommand ip netns exec {lab.control} nc -F %h %p\n"
        "  ProxyUseFdpass yes\n"
        "  ConnectTimeout 10\n"
        "  LogLevel ERROR\n"
        "  ControlMaster auto\n"
        f"  ControlPath {lab.directory}/cp/%h\n"
        "  ControlPersist 60\n"
    )
    return "".join(blocks)
