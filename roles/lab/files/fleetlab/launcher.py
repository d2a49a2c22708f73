"""The long-lived process that keeps one host running.

It holds the host's disk mounted in a mount namespace of its own, starts nspawn, and starts it
again when the guest reboots. SIGTERM stops the host in order and then the launcher. A launcher
that is killed takes its host down in order too: nspawn gets SIGTERM when its parent dies.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from fleetlab import cgroup, guest
from fleetlab.network import flush_rules
from fleetlab.state import Lab, LabError, ProcessId

_REBOOT = 133
_CAPABILITIES = "CAP_NET_ADMIN"


def start(lab: Lab, host: str, image: Path) -> subprocess.Popen[bytes]:
    """Start a launcher that outlives the caller. Its messages and the console go to a file."""
    package = Path(__file__).resolve().parent
    with (lab.host_directory(host) / "console.log").open("a") as console:
        return subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private"),
                *(sys.executable, str(package), "launch"),
                *("--lab", lab.name, "--host", host, "--image", str(image)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd="/",
        )


def run(lab: Lab, host: str, image: Path) -> int:
    """Keep the host running until it is stopped or powers off; nspawn's last exit status.

    Raises LabError if what ran under this name before does not end.
    """
    with (lab.host_directory(host) / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"{host} has a launcher already") from None
        return _run(lab, host, image)


def _run(lab: Lab, host: str, image: Path) -> int:
    _end_predecessor(lab, host)
    groups = cgroup.groups_for(lab.netns(host))
    me = ProcessId.of(os.getpid())
    assert me is not None
    # Recorded before it exists, so that whatever happens next can be cleaned up.
    guest.Running(me, tuple(map(str, groups))).write(lab, host)
    cgroup.make(groups)
    root = _mount_disk(lab.host_directory(host), image)
    try:
        return _supervise(lab, host, root, groups)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=False)
        flush_rules(lab.netns(host))
        cgroup.remove(groups)
        guest.forget(lab, host)


def _end_predecessor(lab: Lab, host: str) -> None:
    previous = guest.Running.read(lab, host)
    if previous is None:
        return
    if not guest.wait_until_empty(previous, 20.0) and not guest.cut_power(previous):
        raise LabError(f"processes of an earlier {host} do not end: {previous.groups[0]}")
    cgroup.remove(previous.paths)


def _mount_disk(directory: Path, image: Path) -> Path:
    """The host's disk: the image below, the host's own files above, on this machine's disk."""
    root = directory / "root"
    for name in ("upper", "work", "root"):
        (directory / name).mkdir(exist_ok=True)
    options = f"lowerdir={image},upperdir={directory}/upper,workdir={directory}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(root)], check=True)
    return root


def _supervise(lab: Lab, host: str, root: Path, groups: list[Path]) -> int:
    child: subprocess.Popen[bytes] | None = None
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = 0
    while not stopping:
        flush_rules(lab.netns(host))
        child = subprocess.Popen(_nspawn(lab, host, root), preexec_fn=lambda: cgroup.enter(groups))
        status = child.wait()
        print(f"[{host}: nspawn ended with status {status}]", flush=True)
        if status != _REBOOT:
            break
    return status


def _nspawn(lab: Lab, host: str, root: Path) -> list[str]:
    return [
        *("setpriv", "--pdeathsig", "TERM"),
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit"),
        f"--directory={root}",
        f"--machine={lab.netns(host)}",
        f"--hostname={host}",
        f"--network-namespace-path=/run/netns/{lab.netns(host)}",
        f"--capability={_CAPABILITIES}",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--kill-signal=SIGRTMIN+3",
        *("--", "/usr/local/sbin/lab-init"),
    ]
