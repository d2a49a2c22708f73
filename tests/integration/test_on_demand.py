"""Upstreams that nothing declares, against a real Consul: found by address, let go, few watches."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import Netns, needs_root, netns

pytestmark = [
    pytest.mark.consul,
    needs_root,
]

HOST, STRANGER = "10.99.1.1", "10.99.1.3"
CART = "10.98.200.7"
"""Nobody listens there, so an answer comes by the mesh."""

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
for line in sys.argv[4:] or (sys.stdin if len(sys.argv) > 3 else ["hello"]):
    sock.sendall(line.encode())
    got = sock.recv(65536).decode()
    print(got.strip(), round(time.monotonic() - begin, 3), flush=True)
"""


@pytest.fixture
def space() -> Iterator[Netns]:
    with netns("on-demand") as space, inside(space.name):
        for address in (HOST, STRANGER):
            space.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        space.run("ip", "route", "add", "local", "10.98.0.0/16", "dev", "lo")
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
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def running(
    consul: ConsulServer, home: Path, http: dict[str, Any] | None = None, **on_demand: Any
) -> Iterator[Agent]:
    """`web`, which calls, and `api`, which `cart` leads to; `cart` is on another node."""
    settings = {"consul": {"address": consul.address}, "http": http or {}}
    with agent(home, **settings, on_demand=on_demand) as one:
        one.declare("web", 8080, user="daemon", protocol="tcp")
        one.declare("api", 8000, user="games", protocol="tcp")
        register(consul, "cart", CART)
        resolver = {"Kind": "service-resolver", "Name": "cart", "Redirect": {"Service": "api"}}
        consul.put("/v1/config", resolver)
        one.start()
        one.eventually(lambda: upstreams(one) == {"web", "api"}, "the host's own services")
        yield one


def client(*arguments: str) -> list[str]:
    command = ["setpriv", "--reuid", "daemon", "--clear-groups", sys.executable, "-c", CLIENT]
    return [*command, *arguments]


def call(address: str, port: int = 8000, said: str = "hello") -> tuple[str, float]:
    """What the other side says its address is, and after how many seconds."""
    command = client(address, str(port), *([] if said == "hello" else ["", said]))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    words = done.stdout.split()
    return (words[0], float(words[-1])) if len(words) > 2 else (done.stderr[-200:], 0.0)


def upstreams(one: Agent) -> set[str]:
    return {upstream["service"] for upstream in one.status()["upstreams"]}


def register(consul: ConsulServer, name: str, address: str) -> None:
    """A service with a sidecar, on a node of its own."""
    for service in (
        {"Service": name, "Port": 8000},
        {
            "Service": f"{name}-sidecar-proxy",
            "Kind": "connect-proxy",
            "Port": 21000,
            "Proxy": {"DestinationServiceName": name, "LocalServicePort": 8000},
        },
    ):
        node = {"Node": f"node-{name}", "Address": address, "Service": service}
        consul.put("/v1/catalog/register", node)


def crowd(consul: ConsulServer, count: int) -> list[str]:
    """The addresses of so many services whose hosts are not there."""
    addresses = [f"10.98.{number >> 8}.{number & 255}" for number in range(count)]
    for number, address in enumerate(addresses):
        register(consul, f"svc{number:03}", address)
    return addresses


def connections(consul: ConsulServer) -> int:
    """Established ones to Consul's HTTP API, as its side sees them."""
    port = f":{consul.ports['http']:04X}"
    lines = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


def test_what_nothing_declares_is_found_by_address_and_let_go_when_idle(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    with (
        echo("127.0.0.1", 8000),
        echo(STRANGER, 8000),
        running(consul, tmp_path / "agent", idle_timeout=2) as mesh,
    ):
        before = connections(consul)
        said, seconds = call(CART)
        assert said == "127.0.0.1", mesh.log()
        assert seconds < 1
        assert upstreams(mesh) == {"web", "api", "cart"}

        with subprocess.Popen(
            client(CART, "8000", "lines"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as talk:
            assert talk.stdin is not None
            assert talk.stdout is not None
            for pause in (0, 4, 0):
                time.sleep(pause)
                talk.stdin.write("line\n")
                talk.stdin.flush()
                assert talk.stdout.readline().startswith("127.0.0.1 line")
                assert "cart" in upstreams(mesh)  # longer than idle_timeout: it has a connection
            talk.stdin.close()
        mesh.eventually(lambda: "cart" not in upstreams(mesh), "its end")
        assert "upstream cart is let go" in mesh.log()
        mesh.eventually(lambda: connections(consul) <= before, "the end of its watches")
        assert call(CART)[0] == "127.0.0.1"  # and it comes back


def look_up(space: Netns, name: str) -> str:
    """As `web`, from a nameserver that is not there."""
    answer = space.call(dns.query.udp, dns.message.make_query(name, "A"), "127.0.0.53", 10, uid=1)
    found = [str(record) for rrset in answer.answer for record in rrset]
    return found[0] if found else dns.rcode.to_text(answer.rcode())


def test_a_name_that_is_looked_up_is_a_first_use(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """And its address leads there on every port, also when the service was let go meanwhile."""
    with (
        echo("127.0.0.1", 8000),
        running(consul, tmp_path / "agent", idle_timeout=1.5) as mesh,
    ):
        begin = time.monotonic()
        address = look_up(space, "cart.mesh")
        assert time.monotonic() - begin < 1.5
        assert address.startswith("24"), mesh.log()
        assert "cart" in upstreams(mesh)
        assert call(address, 80)[0] == "127.0.0.1"
        assert look_up(space, "nobody.mesh") == "NXDOMAIN"
        mesh.eventually(lambda: "cart" not in upstreams(mesh), "its end")
        assert call(address, 4711)[0] == "127.0.0.1"
        assert look_up(space, "cart.virtual.consul") == address


def test_a_subset_is_called_by_its_name(space: Netns, consul: ConsulServer, tmp_path: Path) -> None:
    """It leads to its own instances only: another is on a node that is not there."""
    with echo("127.0.0.1", 8000), running(consul, tmp_path / "agent") as mesh:
        register(consul, "api", "10.97.0.1")
        subsets = {
            "here": {"Filter": 'Node.Node != "node-api"'},
            "there": {"Filter": 'Node.Node == "node-api"'},
        }
        consul.put("/v1/config", {"Kind": "service-resolver", "Name": "api", "Subsets": subsets})
        address = look_up(space, "here.api.mesh")
        assert address.startswith("24"), mesh.log()
        assert address == look_up(space, "here.api.virtual.dc1.dc.consul")
        for _ in range(6):
            assert call(address)[0] == "127.0.0.1"
        there = look_up(space, "there.api.mesh")
        assert there.startswith("24")
        assert there not in (address, look_up(space, "api.mesh"))
        assert call(there)[0] != "127.0.0.1"
        for name in ("nowhere.api.mesh", "here.nobody.mesh", "api.dc9.dc.mesh"):
            assert look_up(space, name) == "NXDOMAIN"
        own = {"web", "api", "here.api.default.dc1", "there.api.default.dc1"}
        assert own <= upstreams(mesh)


def test_a_service_of_another_datacenter_is_called_by_its_name(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """Joined over the WAN; its instance is not there, but its name and endpoint are known."""
    with running_consul(tmp_path / "far", {"datacenter": "dc2"}) as far:
        consul.put(f"/v1/agent/join/127.0.0.1:{far.ports['serf-wan']}?wan=1")
        register(far, "distant", CART)
        with running(consul, tmp_path / "agent") as mesh:
            mesh.eventually(
                lambda: look_up(space, "distant.dc2.mesh").startswith("24"), "the far service"
            )
            address = look_up(space, "distant.dc2.mesh")
            assert look_up(space, "distant.virtual.dc2.consul") == address
            assert look_up(space, "distant.mesh") == "NXDOMAIN"
            assert look_up(space, "nobody.dc2.mesh") == "NXDOMAIN"
            known = {one["service"]: one for one in mesh.status()["upstreams"]}
            target = known["distant.default.dc2"]["target"]
            assert target["datacenter"] == "dc2"
            assert [one["address"] for one in target["endpoints"]] == [CART]


def test_a_host_that_is_named_may_be_a_first_use(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    def ask(host: str) -> str:
        """Which address answered a request to the stranger."""
        return call(STRANGER, 8000, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")[0]

    with (
        echo("127.0.0.1", 8000),
        echo(STRANGER, 8000),
        running(consul, tmp_path / "agent", http={"route_by_host": True}) as mesh,
    ):
        assert ask("cart.mesh:8000") == "127.0.0.1", mesh.log()
        assert "cart" in upstreams(mesh)
        assert ask("cart") == "127.0.0.1"
        for host in ("nobody.mesh", "www.example.com", "cart.example.com"):
            assert ask(host) == STRANGER
        assert call(STRANGER)[0] == STRANGER


def test_strangers_are_passed_through_without_delay(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    with echo(STRANGER, 8000), running(consul, tmp_path / "agent") as mesh:
        for _ in range(2):
            said, seconds = call(STRANGER)
            assert said == STRANGER
            assert seconds < 0.5
        consul.stop()
        mesh.eventually(lambda: not mesh.status()["consul"]["reachable"], "the outage")
        time.sleep(1.1)  # the worker holds its last answer for a second
        said, seconds = call(STRANGER)
        assert said == STRANGER
        assert seconds < 0.5


def test_a_restart_forgets_nothing_in_use(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    with echo("127.0.0.1", 8000), running(consul, tmp_path / "agent") as mesh:
        assert call(CART)[0] == "127.0.0.1"
        assert mesh.stop() == 0
        mesh.start()
        mesh.eventually(lambda: mesh.status()["consul"]["last_contact"] is not None, "Consul")
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert "cart" in upstreams(mesh)
            time.sleep(0.1)


def test_of_a_large_catalog_only_what_is_used_is_watched(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """300 services, 10 of them called: two connections for each of these, not for all."""
    addresses = crowd(consul, 300)
    with running(consul, tmp_path / "agent") as mesh:
        before = connections(consul)
        for address in addresses[:10]:
            call(address)
        used = {f"svc{number:03}" for number in range(10)}
        assert upstreams(mesh) == {"web", "api", *used}
        assert connections(consul) <= before + 2 * 10 + 4  # a few more for questions, kept open


def test_watches_are_bounded_and_the_operator_is_told(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """Eleven queries are the host's own; there is room for two upstreams more, which are busy."""
    addresses = crowd(consul, 4)
    with running(consul, tmp_path / "agent", max_watches=15) as mesh:
        for address in addresses:
            call(address)
        assert upstreams(mesh) == {"web", "api", "svc000", "svc001"}
        (problem,) = mesh.status()["problems"]
        assert problem["path"] == "on_demand.max_watches"
        assert "svc003" in problem["rule"]


def test_without_on_demand_only_the_declared_are_in_the_mesh(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    with (
        echo("127.0.0.1", 8000),
        running(consul, tmp_path / "agent", enabled=False) as mesh,
    ):
        assert call(CART)[0] != "127.0.0.1"
        mesh.declare("web", 8080, user="daemon", protocol="tcp", upstreams=["cart"])
        assert mesh.ask("POST", "/v1/reload")[0] == 200
        mesh.eventually(lambda: "cart" in upstreams(mesh), "the declared upstream")
        assert call(CART)[0] == "127.0.0.1"
