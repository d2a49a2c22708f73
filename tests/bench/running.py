"""Processes that end with the benchmark, and what the kernel says of them."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.install import environment

TICK = os.sysconf("SC_CLK_TCK")
STOP_PATIENCE = 8.0
NICE = -15
AUTOGROUP = Path("/proc/self/autogroup")


class FailedError(Exception):
    """Something did not start, or did not do its work."""


@contextmanager
def running(name: str, command: list[str], logs: Path, **variables: str) -> Iterator[int]:
    """The pid. Its output goes to `logs`/name.log; it gets SIGTERM at the end, or when the
    benchmark itself dies."""
    with (logs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(), **variables},
        )
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    """Free TCP ports of loopback, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def wait_for(what: str, is_so: object, patience: float = 20.0) -> None:
    """`is_so` is called until it is true. Raises FailedError."""
    assert callable(is_so)
    end = time.monotonic() + patience
    while not is_so():
        if time.monotonic() > end:
            raise FailedError(f"{what}: not within {patience:g} s")
        time.sleep(0.1)


def answers(port: int, path: str = "/small/0") -> bool:
    """Whether a GET on 127.0.0.1:`port` gets a 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as sock:
            request = f"GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
            sock.sendall(request.encode())
            return sock.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


def family(pids: list[int]) -> list[int]:
    """`pids` and all their descendants. /proc/PID/task/TID/children would be shorter, but may leave
    some out while others end: proc(5)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = list(pids)
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes, their finished threads included: proc(5). Those that
    ended meanwhile count for nothing."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICK


@contextmanager
def favoured() -> Iterator[None]:
    """The benchmark and all that it started go before whatever else runs here, where the user may
    say so: for work at a fixed rate, whose latency would be others'."""
    threads = [
        int(task.name)
        for pid in family([os.getpid()])
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        _prefer(threads, min(before, NICE))
        yield
    finally:
        _prefer(threads, before)


def _prefer(threads: list[int], nice: int) -> None:
    """Among threads of this session, and the session among others: sched(7), autogroup."""
    for thread in threads:
        try:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except (PermissionError, ProcessLookupError):
            pass
    try:
        AUTOGROUP.write_text(str(nice))
    except OSError:
        pass


def machine_seconds() -> float:
    """CPU time that was not idle, on all cores, what the hypervisor took included."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = numbers[:8]
    return (user + nice + system + irq + softirq + steal) / TICK


def own_seconds() -> float:
    """CPU time of the benchmark and of everything that it started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cpu_seconds(family([os.getpid()])) + ended.ru_utime + ended.ru_stime


def pss(pids: list[int]) -> int:
    """Bytes: private memory and the processes' share of what is shared."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
