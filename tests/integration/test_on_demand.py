"""Upstreams that nothing declares, against a real Consul: found by address, let go, few watches."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import Netns, netns

pytestmark = [
    pytest.mark.consul,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

CALLER, CALLEE, STRANGER = "10.99.1.1", "10.99.1.2", "10.99.1.3"

ECHO = """
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(self.server.server_address[0].encode() + b" " + data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server((sys.argv[1], int(sys.argv[2])), Echo).serve_forever()
"""

CLIENT = """
import socket, sys, time
begin = time.monotonic()
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
for line in sys.stdin if len(sys.argv) > 3 else ["hello"]:
    sock.sendall(line.encode())
    got = sock.recv(65536).decode()
    print(got.strip(), round(time.monotonic() - begin, 3), flush=True)
"""


@pytest.fixture
def space() -> Iterator[Netns]:
    with netns("on-demand") as space, inside(space.name):
        for address in (CALLER, CALLEE, STRANGER):
            space.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        yield space


@pytest.fixture
def consul(space: Netns, tmp_path: Path) -> Iterator[ConsulServer]:
    with running_consul(tmp_path / "consul") as server:
        yield server


@contextlib.contextmanager
def echo(address: str, port: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", ECHO, address, str(port)]) as process:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
                break
            time.sleep(0.05)
        yield
        process.kill()


@contextlib.contextmanager
def running(
    consul: ConsulServer, home: Path, name: str, port: int, user: str, **settings: Any
) -> Iterator[Agent]:
    with agent(home, consul={"address": consul.address}, **settings) as one:
        one.declare(name, port, user=user, protocol="tcp", address=settings["address"])
        one.start()
        one.eventually(lambda: one.service(name)["registered"], "the registration")
        yield one


def client(*arguments: str) -> list[str]:
    command = ["setpriv", "--reuid", "daemon", "--clear-groups", sys.executable, "-c", CLIENT]
    return [*command, *arguments]


def call(address: str, port: int = 8000) -> tuple[str, float]:
    """What the other side says its address is, and after how many seconds."""
    done = subprocess.run(
        client(address, str(port)), capture_output=True, text=True, check=False, timeout=20
    )
    words = done.stdout.split()
    return (words[0], float(words[2])) if words else (done.stderr[-200:], 0.0)


def upstreams(one: Agent) -> set[str]:
    return {upstream["service"] for upstream in one.status()["upstreams"]}


def crowd(consul: ConsulServer, count: int) -> None:
    """Services with sidecars on other nodes; the first is where nobody listens."""
    for number in range(count):
        name, address = f"svc{number:03}", f"10.98.{number >> 8}.{number & 255}"
        for service in (
            {"Service": name, "Port": 8000},
            {
                "Service": f"{name}-sidecar-proxy",
                "Kind": "connect-proxy",
                "Port": 21000,
                "Proxy": {"DestinationServiceName": name, "LocalServicePort": 8000},
            },
        ):
            consul.put(
                "/v1/catalog/register",
                {"Node": f"node{number}", "Address": address, "Service": service},
            )


def connections(consul: ConsulServer) -> int:
    """Established ones to Consul's HTTP API, as its side sees them."""
    port = f":{consul.ports['http']:04X}"
    lines = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


def mesh_bytes(one: Agent) -> str:
    return "\n".join(
        line
        for line in one.page("/metrics")[1].splitlines()
        if line.startswith("fleetmesh_connections_total") and 'source="web"' in line
    )


def test_first_connection_to_an_instances_address_goes_over_the_mesh(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """Nothing declares `svc007`; it is found by its address, served, let go when it is idle, and
    what was connected before goes on."""
    settings = {"address": CALLER, "on_demand": {"idle_timeout": "2s"}}
    with echo(STRANGER, 8000), running(consul, tmp_path / "a", "web", 8080, "daemon", **settings) as web:
        crowd(consul, 3)
        space.run("ip", "address", "add", "10.98.0.1/32", "dev", "lo")
        assert upstreams(web) == {"web"}
        assert call(STRANGER)[0] == STRANGER
        said, seconds = call(STRANGER)
        assert (said, seconds < 0.3) == (STRANGER, True)

        # The sidecar of svc001 is not there: a refused dial shows that the mesh was used, as a
        # passthrough would have reached the echo on the same address.
        with echo("10.98.0.1", 8000):
            begin = time.monotonic()
            assert call("10.98.0.1")[0] != "10.98.0.1"
            assert time.monotonic() - begin < 3
            assert "svc001" in upstreams(web)
            web.eventually(lambda: "svc001" not in upstreams(web), "its end")
            assert "upstream svc001 is let go" in web.log()
            web.eventually(lambda: connections(consul) <= 12, "the end of its watches")
