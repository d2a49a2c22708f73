"""A real Consul 1.8.7 server for tests: the dev agent, on free ports of loopback.

Nothing of it outlives the tests: its state is in memory, and the kernel ends the process when the
one that started it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCH = ROOT / "roles/consul/files/fetch_debian_consul.py"
START_TIMEOUT = 30.0


class ConsulServer:
    """One running dev agent; `address` is its HTTP API, `config` and `files` more of its
    configuration."""

    def __init__(
        self,
        binary: str,
        directory: Path,
        config: dict[str, Any] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self.files = files
        self.binary = binary
        self.directory = directory
        self.config = config or {}
        tokens = self.config.get("acl", {}).get("tokens", {})
        self.management_token: str | None = tokens.get("master")
        self.ports = dict(
            zip(("http", "server", "serf-lan", "serf-wan"), free_ports(4), strict=True)
        )
        self.address = f"http://127.0.0.1:{self.ports['http']}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait for a leader; again after `stop`, with the same ports and no state."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["setpriv", "--pdeathsig", "KILL", self.binary, "agent", *self.role()]
        command += ["-dns-port=-1", "-grpc-port=-1"]
        command += [f"-{name}-port={port}" for name, port in self.ports.items()]
        if self.config:
            file = self.directory / "extra.json"
            file.write_text(json.dumps(self.config))
            command.append(f"-config-file={file}")
        command += [f"-config-file={file}" for file in self.files]
        with (self.directory / "consul.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.directory / "consul.log").read_text(errors="replace")[-3000:]
                self.stop()
                raise RuntimeError(f"consul did not come up:\n{tail}")
            time.sleep(0.05)

    def role(self) -> list[str]:
        """Arguments that say what kind of an agent it is, and where others reach it."""
        return ["-dev", "-node=test", "-bind=127.0.0.1"]

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The decoded answer; text that is no JSON as it is. Raises `HTTPError` from 400 up."""
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Consul-Token": token} if token else {},
        )
        with _opener.open(request, timeout=10) as answer:
            text = answer.read().decode()
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            return text

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def put(self, path: str, body: Any = None) -> Any:
        return self.call("PUT", path, body)

    def _ready(self) -> bool:
        """Leader elected, the node itself in the catalog, Connect's CA initialised."""
        try:
            return bool(
                self.get("/v1/status/leader")
                and self.call("GET", "/v1/catalog/nodes", token=self.management_token)
                and self.get("/v1/agent/connect/ca/roots")["Roots"]
            )
        except (OSError, urllib.error.HTTPError, TypeError, KeyError):
            return False

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


class LastingServer(ConsulServer):
    """One that has its state on disk, and so is the same after `stop` and `start`."""

    def role(self) -> list[str]:
        state = f"-data-dir={self.directory / 'data'}"
        fast = ["-hcl=performance { raft_multiplier = 1 }", "-hcl=connect { enabled = true }"]
        return ["-server", "-bootstrap-expect=1", "-node=server", "-bind=127.0.0.1", state, *fast]


class ClientAgent(ConsulServer):
    """An agent that is no server, as every host has one, of `server`'s datacenter."""

    def __init__(self, binary: str, directory: Path, server: ConsulServer) -> None:
        super().__init__(binary, directory)
        self.ports.pop("serf-wan")
        self._server = server

    def role(self) -> list[str]:
        join = f"-retry-join=127.0.0.1:{self._server.ports['serf-lan']}"
        retry = "-retry-interval=1s"
        data = f"-data-dir={self.directory / 'data'}"
        return ["-node=host", "-bind=127.0.0.1", data, join, retry]


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that were free a moment ago, for TCP and UDP."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            tcp.bind(("127.0.0.1", 0))
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", tcp.getsockname()[1]))
                ports.append(tcp.getsockname()[1])
        return ports


def consul_binary() -> str:
    """Path of Debian's consul 1.8.7; fails the test where it cannot be fetched."""
    found = subprocess.run(
        [sys.executable, str(FETCH)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.fail(f"no consul 1.8.7 here: {found.stderr.strip()}")
    return found.stdout.strip().splitlines()[-1]


@contextlib.contextmanager
def running_consul(
    directory: Path, config: dict[str, Any] | None = None, files: Sequence[Path] = ()
) -> Iterator[ConsulServer]:
    server = ConsulServer(consul_binary(), directory, config, files)
    server.start()
    try:
        yield server
    finally:
        server.stop()
