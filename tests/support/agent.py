"""A real controller for tests, with a service manager that keeps its descriptors as systemd does.

The agent runs in the caller's network namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START = (
    "import sys; from pathlib import Path; from fleetmesh.process import controller;"
    "{prelude}sys.exit(controller.run(Path(sys.argv[1]), Path(sys.argv[2])))"
)
PATIENCE = 15.0
FIRST_FD = 3
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class Manager:
    """The notification socket of a service: its assignments, and its descriptor store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.stored: dict[str, list[int]] = {}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def status(self) -> str:
        """The last STATUS=."""
        return next((s[7:] for s in reversed(self.said) if s.startswith("STATUS=")), "")

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for fds in self.stored.values():
            for fd in fds:
                os.close(fd)
        self.stored.clear()

    def _listen(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, 65536, 16)
            except OSError:
                return
            if not data:
                return
            for fd in fds:
                os.set_inheritable(fd, False)  # the agent closes what it is handed, not this
            assignments = data.decode().splitlines()
            values = dict(line.split("=", 1) for line in assignments)
            if "FDSTOREREMOVE" in values:
                for fd in self.stored.pop(values["FDNAME"], []):
                    os.close(fd)
            elif "FDSTORE" in values:
                self.stored.setdefault(values["FDNAME"], []).extend(fds)
            else:
                self.said.extend(assignments)


class Agent:
    """`start` and `stop` as a unit would be; what is stored survives. `prelude` is Python that the
    agent runs first."""

    def __init__(self, home: Path, settings: dict[str, Any]) -> None:
        self.home = home
        self.services = home / "services.d"
        self.services.mkdir(parents=True)
        self.socket = home / "run" / "admin.sock"
        self.settings = {
            "address": "10.99.1.1",
            "workers": 1,
            "admin_socket": str(self.socket),
            "state_dir": str(home / "state"),
            "drain_timeout": 1,
            **settings,
        }
        self.prelude = ""
        self.manager = Manager(home / "notify")
        self.process: subprocess.Popen[bytes] | None = None
        self.configure()

    def configure(self, **changed: Any) -> None:
        self.settings |= changed
        (self.home / "agent.yaml").write_text(json.dumps(self.settings))

    def declare(self, name: str, port: int, **more: Any) -> None:
        body = {"name": name, "port": port, **more}
        (self.services / f"{name}.yaml").write_text(json.dumps(body))

    def start(self, ready: bool = True) -> None:
        """Start, and wait until it is READY."""
        kept = [(name, fd) for name, fds in self.manager.stored.items() for fd in fds]
        self.manager.said.clear()
        environment = {
            **{k: v for k, v in os.environ.items() if k != "JOURNAL_STREAM"},
            "NOTIFY_SOCKET": str(self.manager.path),
        }
        if kept:
            environment["LISTEN_FDS"] = str(len(kept))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)

        def hand_over() -> None:
            high = [os.dup2(fd, 500 + n) for n, (_, fd) in enumerate(kept)]
            for n, fd in enumerate(high):
                os.dup2(fd, FIRST_FD + n)
                os.close(fd)

        # The shell knows the pid that LISTEN_PID must name.
        shell = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", sys.executable, "-c"]
        shell.append(START.format(prelude=self.prelude))
        files = [str(self.home / "agent.yaml"), str(self.services)]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                shell + files,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=hand_over,
                close_fds=False,
            )
        if ready:
            self.await_ready()

    def await_ready(self) -> None:
        self.eventually(lambda: "READY=1" in self.manager.said, "READY=1")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    def close(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self.manager.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a call to the admin API."""
        connection = _UnixConnection(self.socket)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def status(self) -> Any:
        return self.ask("GET", "/v1/status")[1]

    def service(self, name: str) -> Any:
        return next(s for s in self.status()["services"] if s["name"] == name)

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page beside the metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", 15020, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def log(self) -> str:
        return (self.home / "log").read_text()

    def eventually(
        self, condition: Callable[[], Any], what: str, patience: float = PATIENCE
    ) -> Any:
        """The first true value of `condition`; fails with the agent's log."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            with contextlib.suppress(OSError, StopIteration, http.client.HTTPException):
                if value := condition():
                    return value
            time.sleep(0.05)
        raise AssertionError(f"not within {patience:g} s: {what}\n{self.log()[-4000:]}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread, and every process that it starts, is in this network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    within = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(within)
        yield
    finally:
        _set_namespace(before)
        os.close(within)
        os.close(before)


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def agent(home: Path, **settings: Any) -> Iterator[Agent]:
    """One that has not been started yet; killed at the end."""
    one = Agent(home, settings)
    try:
        yield one
    finally:
        one.close()
