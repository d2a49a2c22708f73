"""One Consul, one fleetmesh agent, and services of the same mesh whose sidecars are others'."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.running import running
from tests.support.agent import Agent, agent, inside
from tests.support.app import Scripted
from tests.support.consul import ConsulServer, running_consul
from tests.support.consul_envoy import Sidecars
from tests.support.netns import Netns, netns

HERE = "10.99.1.1"
"""Of the services that fleetmesh carries."""
THERE = "10.99.1.2"
WEB, GUEST = 1, 5
"""The uids of daemon and games: the callers behind fleetmesh."""
GREETING = b"who are you\n"
PATIENCE = 10.0


@dataclass(frozen=True)
class Foreign:
    """Two services behind sidecars of `kind`: `<kind>-http` and `<kind>-tcp`. `api` and `store`
    are the ports of loopback where their applications find fleetmesh's services."""

    kind: str
    http: int
    http_sidecar: int
    tcp: int
    tcp_sidecar: int
    api: int
    store: int


CONNECT = Foreign("connect", 9000, 21500, 9001, 21501, 5000, 5001)
ENVOY = Foreign("envoy", 9010, 21510, 9011, 21511, 5010, 5011)
HTTP2_PORT, HTTP2_SIDECAR = 9015, 21515
"""Of `envoy-http2`."""
WIRE_PORT, WIRE_UPSTREAM = 8002, 5012
"""Of `wire`, whose application behind fleetmesh takes HTTP/2, and where envoy-http2 finds it."""
PLAIN_PORT = 9020
"""Of the service `plain`, which has no sidecar."""
UNKNOWN_PORT = 9030
"""Of what Consul does not know."""


class Applications:
    """Scripted HTTP and greeting echoes, on a thread's event loop inside the namespace."""

    def __init__(self) -> None:
        self.http: dict[int, Scripted] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def serve_http(self, port: int) -> None:
        self.http[port] = Scripted()
        self._serve(self.http[port], "127.0.0.1", port)

    def serve_tcp(self, port: int, host: str = "127.0.0.1") -> None:
        self._serve(_greet_and_echo, host, port)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, handler: Any, host: str, port: int) -> None:
        server = asyncio.start_server(handler, host, port)
        asyncio.run_coroutine_threadsafe(server, self._loop).result(PATIENCE)


async def _greet_and_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GREETING)
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


class Site:
    def __init__(
        self, space: Netns, consul: ConsulServer, mesh: Agent, applications: Applications
    ) -> None:
        self.space = space
        self.consul = consul
        self.mesh = mesh
        self.applications = applications
        roots = consul.get("/v1/agent/connect/ca/roots")
        self.trust_domain: str = roots["TrustDomain"]

    def spiffe_id(self, service: str) -> str:
        return f"spiffe://{self.trust_domain}/ns/default/dc/dc1/svc/{service}"

    def connect(self, address: str, port: int, uid: int = 0) -> socket.socket:
        sock = self.space.connect(address, port, uid)
        sock.settimeout(PATIENCE)
        return sock

    def call(self, address: str, port: int, uid: int = 0) -> http.client.HTTPConnection:
        """One connection, never another in its place."""
        connection = http.client.HTTPConnection(address, port)
        connection.auto_open = 0
        connection.sock = self.connect(address, port, uid)
        return connection

    def get(self, address: str, port: int, uid: int = 0) -> int:
        """The status of a GET on a connection of its own; 0 without an answer."""
        try:
            connection = self.call(address, port, uid)
            connection.request("GET", "/any")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0

    def answered(self, address: str, port: int, uid: int = 0) -> bool:
        """Whether the application of a TCP connection answers. Its greeting does not tell: Envoy
        judges with the caller's first bytes, and lets a server speak before."""
        try:
            with self.connect(address, port, uid) as sock, sock.makefile("rb") as received:
                sock.sendall(b"it is me\n")
                return received.readline() + received.readline() == GREETING + b"it is me\n"
        except OSError:
            return False

    def await_traffic(self, foreign: Foreign) -> None:
        """Both sides serve, in both directions."""
        eventually(lambda: self.get(THERE, foreign.http, WEB) == 200, foreign.kind)
        eventually(lambda: self.answered(THERE, foreign.tcp, WEB), foreign.kind)
        eventually(lambda: self.get("127.0.0.1", foreign.api) == 200, foreign.kind)
        eventually(lambda: self.answered("127.0.0.1", foreign.store), foreign.kind)

    @contextmanager
    def intention(self, source: str, destination: str) -> Iterator[None]:
        """A denial, for as long as it lasts."""
        body = {"SourceName": source, "DestinationName": destination, "Action": "deny"}
        created = self.consul.call("POST", "/v1/connect/intentions", body)
        try:
            yield
        finally:
            self.consul.call("DELETE", f"/v1/connect/intentions/{created['ID']}")


def eventually(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def _register(
    consul: ConsulServer, name: str, port: int, sidecar: int, *upstreams: tuple[str, int]
) -> None:
    proxy = {
        "Upstreams": [
            {"DestinationName": upstream, "LocalBindPort": at} for upstream, at in upstreams
        ]
    }
    body: dict[str, Any] = {"Name": name, "Port": port, "Address": THERE}
    body["Connect"] = {
        "SidecarService": {
            "Port": sidecar,
            "Proxy": proxy,
            "Checks": [{"Name": "alias", "AliasService": name}],
        }
    }
    consul.put("/v1/agent/service/register", body)


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """web and guest are callers, api (http), store (tcp) and wire (http2) callees behind fleetmesh;
    the services of CONNECT and ENVOY are both. guest may call none of those. `<kind>-impostor` is
    registered at the sidecar of another service; `plain` has none."""
    with ExitStack() as stack:
        space = stack.enter_context(netns("interop"))
        stack.enter_context(inside(space.name))
        for address in (HERE, THERE):
            space.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        consul = stack.enter_context(running_consul(directory / "consul"))
        for name in ("api", "connect-http", "envoy-http", "connect-impostor", "envoy-impostor"):
            entry = {"Kind": "service-defaults", "Name": name, "Protocol": "http"}
            consul.put("/v1/config", entry)
        for name in ("envoy-http2", "wire"):
            entry = {"Kind": "service-defaults", "Name": name, "Protocol": "http2"}
            consul.put("/v1/config", entry)
        for foreign in (CONNECT, ENVOY):
            kind = foreign.kind
            api, store = ("api", foreign.api), ("store", foreign.store)
            _register(consul, f"{kind}-http", foreign.http, foreign.http_sidecar, api)
            _register(consul, f"{kind}-tcp", foreign.tcp, foreign.tcp_sidecar, store)
            _register(consul, f"{kind}-impostor", foreign.http + 100, foreign.tcp_sidecar)
            for name in (f"{kind}-http", f"{kind}-tcp"):
                body = {"SourceName": "guest", "DestinationName": name, "Action": "deny"}
                consul.call("POST", "/v1/connect/intentions", body)
        _register(consul, "envoy-http2", HTTP2_PORT, HTTP2_SIDECAR)
        plain = {"Name": "plain", "Port": PLAIN_PORT, "Address": THERE}
        consul.put("/v1/agent/service/register", plain)

        applications = Applications()
        stack.callback(applications.close)
        for port in (8000, CONNECT.http, ENVOY.http):
            applications.serve_http(port)
        for port in (8001, CONNECT.tcp, ENVOY.tcp):
            applications.serve_tcp(port)
        for port in (PLAIN_PORT, UNKNOWN_PORT):
            applications.serve_tcp(port, THERE)

        mesh = stack.enter_context(agent(directory / "agent", consul={"address": consul.address}))
        mesh.declare("web", 8080, user="daemon", protocol="http")
        mesh.declare("guest", 8081, user="games", protocol="http")
        mesh.declare("api", 8000, protocol="http")
        mesh.declare("store", 8001, protocol="tcp")
        mesh.declare("wire", WIRE_PORT)
        mesh.start()
        one = Site(space, consul, mesh, applications)
        mesh.eventually(lambda: _registered(mesh), "registrations")

        for name in ("connect-http", "connect-tcp"):
            command = [consul.binary, "connect", "proxy", f"-http-addr={consul.address}"]
            stack.enter_context(
                running(name, [*command, f"-sidecar-for={name}", "-log-level=debug"], directory)
            )
        sidecars = Sidecars(consul, THERE, ["guest"])
        sidecars.callee("envoy-http", ENVOY.http_sidecar, ENVOY.http, "http/1.1")
        sidecars.callee("envoy-tcp", ENVOY.tcp_sidecar, ENVOY.tcp)
        sidecars.callee("envoy-http2", HTTP2_SIDECAR, ENVOY.http, "h2", "http/1.1")
        sidecars.application(WIRE_PORT, 8000)
        sidecars.caller("envoy-http2", WIRE_UPSTREAM, "wire", True, True)
        sidecars.caller("envoy-http", ENVOY.api, "api", True)
        sidecars.caller("envoy-tcp", ENVOY.store, "store", False)
        stack.enter_context(sidecars.run(directory / "envoy"))
        for foreign in (CONNECT, ENVOY):
            one.await_traffic(foreign)
        yield one


def _registered(mesh: Agent) -> bool:
    return all(service["registered"] for service in mesh.status()["services"])
