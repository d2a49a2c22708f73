"""A whole lab: up, down, and what is running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fleetlab import cgroup, guest, launcher, network, seed
from fleetlab.image import ensure_image, image_path, remove_abandoned
from fleetlab.state import HostSpec, Lab, LabError, LabSpec

_BOOT_PATIENCE = 60.0
_STOP_PATIENCE = 20.0
# A booted host holds five inotify instances, all of them root's; the kernel's default for one
# user is 128, which three labs exhaust.
_INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_NEED = 1024


def up(lab: Lab, spec: LabSpec) -> bool:
    """Bring everything up that is not; True if anything was changed. Raises LabError."""
    changed = ensure_image()
    with lab.locked():
        lab.keep(spec)
        changed |= _ensure_inotify()
        changed |= _remove_unlisted(lab, spec)
        changed |= network.ensure_network(lab, spec)
        changed |= seed.ensure_keys(lab, spec)
        changed |= _ensure_hosts(lab, spec, spec.hosts)
    return changed


def down(lab: Lab) -> bool:
    """Remove everything that the lab recorded as its own; True if there was anything."""
    remove_abandoned()
    if not lab.directory.exists():
        return False
    with lab.locked():
        _say(f"stopping {len(lab.known_hosts())} hosts of lab {lab.name}")
        _end_ssh_masters(lab)
        stop(lab, lab.known_hosts())
        for netns in lab.owned_netns():
            for pid in network.processes_in(netns):
                _signal(pid, signal.SIGTERM)
        network.remove_network(lab)
        _remove(lab.directory)
    try:
        lab.directory.parent.rmdir()
    except OSError:
        pass  # another lab's
    return True


def _remove(directory: Path) -> None:
    """With all that is in it, also where launchers that end take their records out meanwhile."""

    def unless_gone(_call: object, _path: str, info: tuple[object, BaseException, object]) -> None:
        _, error, _ = info
        if not isinstance(error, FileNotFoundError):
            raise error

    shutil.rmtree(directory, onerror=unless_gone)


def stop(lab: Lab, hosts: Iterable[str]) -> None:
    """Stop hosts in order, all at once; cut the power of one that does not stop.

    Raises LabError if one survives even that.
    """
    running = {host: guest.Running.read(lab, host) for host in hosts}
    for record in running.values():
        if record is not None and record.launcher.alive():
            _signal(record.launcher.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_PATIENCE
    for host, record in running.items():
        if record is None:
            continue
        while not guest.wait_until_empty(record, 1.0) and time.monotonic() < deadline:
            # A guest that was only just booting did not hear the first one.
            guest.halt(record)
        if not guest.wait_until_empty(record, 0.0):
            _say(f"{host} does not stop in order; its power is cut")
            if not guest.cut_power(record):
                raise LabError(f"processes of {host} do not end: {record.groups[0]}")
        while record.launcher.alive():
            if time.monotonic() > deadline + _STOP_PATIENCE:
                raise LabError(f"the launcher of {host}, {record.launcher.pid}, does not end")
            time.sleep(0.02)
        network.flush_rules(lab.netns(host))
        cgroup.remove(record.paths)
        guest.forget(lab, host)


def start(lab: Lab, spec: LabSpec, hosts: Iterable[str]) -> bool:
    """Start hosts that are off, with the disks they have; True if any was. Raises LabError."""
    wanted = set(hosts)
    with lab.locked():
        return _ensure_hosts(lab, spec, [host for host in spec.hosts if host.name in wanted])


def cut_power(lab: Lab, host: str) -> None:
    """Turn a host off at once, as a power cut does. Raises LabError if it is not running."""
    record = guest.Running.read(lab, host)
    if record is None or not guest.cut_power(record):
        raise LabError(f"{host} is not running")
    stop(lab, [host])


def wait(
    lab: Lab,
    spec: LabSpec,
    hosts: Iterable[str],
    launchers: Mapping[str, subprocess.Popen[bytes]] = MappingProxyType({}),
) -> None:
    """Wait until the hosts answer SSH and their applications answer, over IPv4 and IPv6.

    Raises LabError naming those that do not within a minute, or whose launcher ended.
    """
    wanted = set(hosts)
    targets = []
    for host in spec.hosts:
        if host.name in wanted:
            for address in (host.address, host.address6):
                targets += [f"{address} 22", *(f"{address} {app.port}" for app in host.apps)]
    probe = Path(__file__).with_name("probe.py")
    command = [
        *("ip", "netns", "exec", lab.control, sys.executable, str(probe)),
        *(str(_BOOT_PATIENCE), *targets),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as prober:
        while prober.poll() is None:
            for name, process in launchers.items():
                if process.poll() is not None:
                    prober.terminate()
                    raise LabError(f"{name} did not boot: {_last_words(lab, name)}")
            time.sleep(0.05)
        silent = prober.communicate()[0].strip()
    if prober.returncode != 0:
        raise LabError(
            f"no answer within {_BOOT_PATIENCE:.0f} s from: {silent}; "
            f"the consoles are in {lab.directory}/hosts/*/console.log"
        )


def status(lab: Lab) -> dict[str, dict[str, int | None]]:
    """Launcher and PID 1 of each host, by this machine's numbers; None for what is not there."""
    shown: dict[str, dict[str, int | None]] = {}
    for host in lab.known_hosts():
        record = guest.Running.read(lab, host)
        alive = record is not None and record.launcher.alive()
        shown[host] = {
            "launcher": record.launcher.pid if record is not None and alive else None,
            "init": guest.init_pid(record) if record is not None else None,
        }
    return shown


def _ensure_hosts(lab: Lab, spec: LabSpec, hosts: Sequence[HostSpec]) -> bool:
    changed = False
    launchers = {}
    for host in hosts:
        record = guest.Running.read(lab, host.name)
        if record is not None and record.launcher.alive() and guest.init_pid(record) is not None:
            changed |= _refresh(lab, spec, host, record)
        else:
            launchers[host.name] = _boot(lab, spec, host)
    wait(lab, spec, [host.name for host in hosts], launchers)
    return changed or bool(launchers)


def _refresh(lab: Lab, spec: LabSpec, host: HostSpec, record: guest.Running) -> bool:
    """Bring a running host's files up to date, and restart the applications that have new ones."""
    root = Path(f"/proc/{guest.init_pid(record)}/root")
    accounts = seed.ensure_accounts(root, host.users)
    files = seed.ensure_seed(root, seed.host_files(lab, spec, host))
    services = [app.service for app in host.apps]
    if seed.PROGRAM not in files:
        services = [service for service in services if seed.unit_file(service) in files]
    if services:
        guest.execute(record, "systemctl", "daemon-reload")
        guest.execute(record, "systemctl", "restart", *services)
    return accounts or bool(files)


def _boot(lab: Lab, spec: LabSpec, host: HostSpec) -> subprocess.Popen[bytes]:
    """Seed a host's disk and start its launcher, after ending whatever is left of it."""
    stop(lab, [host.name])
    upper = lab.host_directory(host.name) / "upper"
    upper.mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)
    seed.ensure_accounts(upper, host.users)
    seed.ensure_machine_id(upper)
    seed.ensure_seed(upper, seed.host_files(lab, spec, host))
    _say(f"booting {host.name}")
    return launcher.start(lab, host.name, image_path())


def _ensure_inotify() -> bool:
    if int(_INOTIFY_INSTANCES.read_text()) >= _INOTIFY_NEED:
        return False
    _INOTIFY_INSTANCES.write_text(str(_INOTIFY_NEED))
    return True


def _last_words(lab: Lab, host: str) -> str:
    """The end of a host's console, on one line."""
    console = lab.host_directory(host) / "console.log"
    lines = console.read_text(errors="replace").splitlines()
    return " / ".join(line.strip() for line in lines[-4:]) + f" (all of it in {console})"


def _remove_unlisted(lab: Lab, spec: LabSpec) -> bool:
    """Remove hosts of an earlier inventory."""
    listed = {host.name for host in spec.hosts}
    unlisted = [name for name in lab.known_hosts() if name not in listed]
    stop(lab, unlisted)
    for name in unlisted:
        network.remove_netns(lab.netns(name))
        _remove(lab.host_directory(name))
    return bool(unlisted)


def _end_ssh_masters(lab: Lab) -> None:
    for socket in (lab.directory / "cp").glob("*"):
        subprocess.run(
            ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "lab"],
            capture_output=True,
            check=False,
        )


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
