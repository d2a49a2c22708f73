"""One mesh that plays case after case: a Consul server with s1's agent in one network namespace,
and in another every other instance's agent with a Consul client of its own.

Two agents at one Consul agent would take each other's registrations for their own.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, NamedTuple

from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, consul_binary
from tests.support.consul_case import DATACENTER, Case, CaseService
from tests.support.netns import Netns, join, netns

CALLER, CALLEE = "10.99.7.1", "10.99.7.2"
CALLING_USER, CALLING_UID = "daemon", 1
METRICS = 1234  # where the cases want s1's
# Which agent serves which instance: no two of one service, for a host has each service once.
HOMES = {
    "s1": "caller",
    "s2": "first",
    "s2-v1": "second",
    "s2-v2": "third",
    "s3": "first",
    "s4": "first",
}
PORTS = {"s1": 8080, "s2": 8181, "s2-v1": 8182, "s2-v2": 8183, "s3": 8282, "s4": 8382}
PATIENCE = 10.0

Fields = dict[str, str]


class Member(ConsulServer):
    """A Consul agent that others reach at `bind`; a client of the server at `serf`, or a server."""

    def __init__(self, directory: Path, name: str, bind: str, serf: str = "") -> None:
        super().__init__(consul_binary(), directory, {"datacenter": DATACENTER})
        self._name, self._bind, self._serf = name, bind, serf

    def role(self) -> list[str]:
        own = [f"-node={self._name}", f"-bind={self._bind}"]
        if not self._serf:
            return ["-dev", *own]
        return [f"-data-dir={self.directory / 'data'}", f"-retry-join={self._serf}", *own]


class Fortio(BaseHTTPRequestHandler):
    """As much of `fortio server` as the cases need: echoes a POST, dumps its environment.

    The first request with a given `X-Fail: <status> <word>` gets that status.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    name = ""
    failed: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        failure = self.headers.get("X-Fail", "")
        if failure and failure not in self.failed:
            self.failed.add(failure)
            self._answer(int(failure.split()[0]), b"")
            return
        path, _, query = self.path.partition("?")
        if path != "/debug" or query != "env=dump":
            self._answer(404, self.path.encode())
            return
        lines = [f"{key.title()}: {value}" for key, value in self.headers.items()]
        self._answer(200, "\n".join([*lines, "", f"FORTIO_NAME={self.name}", ""]).encode())

    def do_POST(self) -> None:
        self._answer(200, self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Backend", self.name)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class _Backend(ThreadingHTTPServer):
    daemon_threads = True


class Reply(NamedTuple):
    """`backend` is who answered; "" for the mesh itself."""

    status: int
    content: str
    backend: str


class CaseMesh:
    """`play` puts a case in force; then its assertions ask the rest."""

    def __init__(
        self, consul: ConsulServer, caller: Netns, callee: Netns, agents: dict[str, Agent]
    ) -> None:
        self.consul = consul
        self.space = caller
        self.callee = callee
        self.agents = agents
        self.case = Case("", {}, ())

    def play(self, case: Case, *denied: tuple[str, str]) -> None:
        """Nothing is left of the case before. `denied`: pairs of source and destination."""
        self._clear()
        self.case = case
        for entry in case.entries:
            assert self.consul.put("/v1/config", entry) is True
        for source, destination in denied:
            body = {"SourceName": source, "DestinationName": destination, "Action": "deny"}
            self.consul.call("POST", "/v1/connect/intentions", body)
        for service in case.services.values():
            self._declare(service)
        self._reload()

    def call(
        self, port: int, method: str, path: str, count: int = 1, fields: Fields | None = None
    ) -> list[Reply]:
        """`count` answers to s1's user on one connection to what it has at localhost:`port`. No
        port is bound for that: capture takes connections to the service's own address."""
        return self.space.call(
            self._request, port, method, path, count, fields or {}, uid=CALLING_UID
        )

    def connection(self, port: int) -> http.client.HTTPConnection:
        """To the same; for a thread that is in the caller's namespace and has s1's user."""
        return http.client.HTTPConnection(CALLEE, self.port(port), timeout=PATIENCE)

    def dial(self, port: int) -> socket.socket:
        """A connection of s1's user to the same."""
        return self.space.connect(CALLEE, self.port(port), uid=CALLING_UID)

    def healthy(self, service: str) -> int:
        return len(self.consul.get(f"/v1/health/connect/{service}?passing"))

    def endpoints(self, service: str) -> int:
        """Those that s1's agent would send to, as far as their health goes, over all targets."""
        upstreams = self.agents["caller"].ask("GET", "/v1/snapshot")[1]["upstreams"]
        one = next((u for u in upstreams if u["service"] == service), None)
        if one is None:
            return 0
        found = {e["id"] for e in _endpoints(one) if e["health"] == "passing"}
        return len(found)

    def status(self) -> Any:
        return self.agents["caller"].status()

    def page(self, agent_: str, path: str) -> tuple[int, str]:
        """What an agent says beside its metrics."""
        address, _, port = self.agents[agent_].settings["metrics_address"].partition(":")
        space = self.space if agent_ == "caller" else self.callee
        return space.call(_get, address, int(port), path)

    def ready(self, service: str) -> bool:
        """Whether the agent of this instance serves its certificate and has registered it."""
        own = self.case.services[service]
        status = self.agents[HOMES[service]].service(own.name)
        return bool(status["registered"] and status["identity"]["workers"])

    def port(self, local: int) -> int:
        """Where the service itself listens that s1 has at localhost:`local`."""
        behind = self.case.behind(local)
        return next(one.port for one in self.case.services.values() if one.name == behind)

    def _request(
        self, port: int, method: str, path: str, count: int, fields: Fields
    ) -> list[Reply]:
        replies = []
        with contextlib.closing(self.connection(port)) as connection:
            for _ in range(count):
                body = b"hello" if method == "POST" else None
                connection.request(method, path, body, {"Host": "localhost:5000", **fields})
                answer = connection.getresponse()
                content = answer.read().decode()
                replies.append(Reply(answer.status, content, answer.getheader("X-Backend", "")))
        return replies

    def _declare(self, service: CaseService) -> None:
        """What the proxy's opaque configuration calls http is declared so, unless Consul's own
        entries do; grpc is carried as tcp, which is what nobody declares."""
        more: dict[str, Any] = {}
        if service.config.get("protocol") == "http" and not self.case.entries:
            more["protocol"] = "http"
        if service.upstreams:
            more["upstreams"] = sorted(set(service.upstreams.values()))
        if HOMES[service.id] == "caller":
            more["user"] = CALLING_USER
        self.agents[HOMES[service.id]].declare(
            service.name,
            service.port,
            id=service.id,
            meta=service.meta,
            sidecar_port=service.sidecar_port,
            **more,
        )

    def _reload(self) -> None:
        """The service manager may hold a port that was just given up for a moment still."""
        for one in self.agents.values():
            one.eventually(lambda one=one: one.ask("POST", "/v1/reload")[0] == 200, "a reload")  # type: ignore[misc]

    def _clear(self) -> None:
        for intention in self.consul.get("/v1/connect/intentions") or ():
            self.consul.call("DELETE", f"/v1/connect/intentions/{intention['ID']}")
        for entry in reversed(self.case.entries):
            self.consul.call("DELETE", f"/v1/config/{entry['Kind']}/{entry['Name']}")
        for one in self.agents.values():
            for file in one.services.iterdir():
                file.unlink()
        self._reload()
        caller = self.agents["caller"]
        caller.eventually(lambda: not caller.status()["upstreams"], "an empty mesh")
        self.case = Case("", {}, ())


def _get(address: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def _endpoints(value: Any) -> Iterator[dict[str, Any]]:
    """Every endpoint anywhere in an upstream."""
    if isinstance(value, dict):
        yield from value.get("endpoints") or ()
        for one in value.values():
            yield from _endpoints(one)
    elif isinstance(value, list):
        for one in value:
            yield from _endpoints(one)


@contextlib.contextmanager
def case_mesh(directory: Path) -> Iterator[CaseMesh]:
    """A running one without services. The calling thread is in the caller's namespace."""
    with (
        netns("cases") as caller,
        netns("callees") as callee,
        inside(caller.name),
        contextlib.ExitStack() as stack,
    ):
        join(caller, callee, 7)
        for name, port in PORTS.items():
            if name != "s1":
                _backend(stack, callee, name, port)
        server = Member(directory / "server", "server", CALLER)
        stack.callback(server.stop)
        server.start()
        serf = f"{CALLER}:{server.ports['serf-lan']}"
        agents = {
            "caller": stack.enter_context(
                agent(
                    directory / "caller",
                    address=CALLER,
                    metrics_address=f"{CALLER}:{METRICS}",
                    consul={"address": server.address},
                    capture={"confirm_timeout": 3600},
                )
            )
        }
        agents["caller"].start(ready=False)
        with inside(callee.name):
            for number, name in enumerate(("first", "second", "third")):
                client = Member(directory / f"{name}-consul", name, CALLEE, serf)
                stack.callback(client.stop)
                client.start()
                agents[name] = stack.enter_context(
                    agent(
                        directory / name,
                        address=CALLEE,
                        metrics_address=f"127.0.0.1:{15020 + number}",
                        consul={"address": client.address},
                        capture={"enabled": False},
                        ports={"plain": 15006 + number},
                    )
                )
                agents[name].start(ready=False)
        for one in agents.values():
            one.await_ready()
        yield CaseMesh(server, caller, callee, agents)


def _backend(stack: contextlib.ExitStack, space: Netns, name: str, port: int) -> None:
    handler: Callable[..., Any] = type(name, (Fortio,), {"name": name})
    server = _Backend(("127.0.0.1", port), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = space.listen("127.0.0.1", port)
    server.socket.settimeout(None)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    Thread(target=server.serve_forever, daemon=True).start()
