"""A fixed replay through both hops in one process, over wires of memory: what the interpreter does
for one request, counted instead of timed.

`python -m tests.bench.replay` prints the counts; with `--write` they become the budget.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec.structs import replace
from tests.bench.routes import ELSEWHERE, routes, service
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.frames import STREAMS
from fleetmesh.core.table import link
from fleetmesh.edge.tls import client_context, server_context
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.model.traffic import Protocol, Upstream
from fleetmesh.proxy.listener import InboundArrival, OutboundArrival
from fleetmesh.proxy.plane import Identity, Plane
from fleetmesh.settings import HttpSettings, TcpSettings

BUDGET = Path(__file__).with_name("budget.json")
HEADROOM = 1.03
WARM = 20
ENDPOINTS = 4  # of the work that chooses among several
COUNTED = 50
SIDECAR, APPLICATION = 21000, 8000
SOURCES = 20

Counts = dict[str, dict[str, float]]
"""By work: calls (Python's and C's) and instructions (bytecode) per request."""


class Wire(asyncio.Transport):
    """One end of a connection in memory. What is written waits until `Wires.pump`."""

    def __init__(self, wires: Wires, port: int) -> None:
        super().__init__()
        self.peer: Wire = self
        self._wires = wires
        self._port = port
        self._protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def deliver(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._wires.queue.append((self.peer, bytes(data)))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", self._port) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """What was written to it is delivered all the same."""

    def resume_reading(self) -> None:
        """As above."""


class Wires:
    """Stands in for the event loop's connections; `listening` by port."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue: collections.deque[tuple[Wire, bytes]] = collections.deque()
        self.listening: dict[int, Callable[[], asyncio.Protocol]] = {}
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], _host: str, port: int
    ) -> tuple[Wire, asyncio.Protocol]:
        protocol = factory()
        return self.connect(protocol, port), protocol

    def connect(self, protocol: asyncio.Protocol, port: int) -> Wire:
        near, far = Wire(self, port), Wire(self, port)
        near.peer, far.peer = far, near
        for end, its in ((far, self.listening[port]()), (near, protocol)):
            end.set_protocol(its)
            its.connection_made(end)
        return near

    def pump(self) -> None:
        queue = self.queue
        while queue:
            end, data = queue.popleft()
            end.deliver(data)


class Application(asyncio.Protocol):
    """Answers with `answer` whenever a request of `size` bytes or more is complete."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._missing = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, _, body = data.partition(b"\r\n\r\n")
            self._missing = self._replay.body - len(body) if head.startswith(b"POST") else 0
        else:
            self._missing -= len(data)
        if not self._missing:
            for piece in self._replay.answer:
                self._transport.write(piece)


class Caller(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


class Replay:
    """`ask` is one request or, for TCP, one piece there and back."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._count = 0
        self.body = 64 * 1024
        content = {"small": 96, "several": 96, "4k": 4096, "64k": 64 * 1024}.get(work, 0)
        head = (
            b"HTTP/1.1 200 OK\r\nServer: app\r\nDate: Mon, 23 Nov 2026 15:00:00 GMT\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % content
        )
        whole = head + b"x" * content if content else b"x" * 16384
        self.answer = [whole[at : at + 16384] for at in range(0, len(whole), 16384)]

    async def start(self) -> None:
        """Two planes, connected and warm."""
        authority = Authority()
        wires = self._wires = Wires(asyncio.get_running_loop())
        protocol = Protocol.TCP if self._work == "tcp" else Protocol.HTTP
        leaves = {name: authority.leaf(name) for name in ("web", "api")}
        sources = (*(f"source{number}" for number in range(SOURCES - 1)), "web")
        intentions = tuple(Intention(source, "api", Action.ALLOW, 9) for source in sources)
        web = local_service("web", 1, leaves["web"])
        api = local_service(
            "api", APPLICATION, leaves["api"], protocol=protocol, intentions=intentions
        )
        ports = [SIDECAR] * (ENDPOINTS if self._work == "several" else 1)
        caller = _plane(wires, authority, web, _routed(upstream("api", *ports, protocol=protocol)))
        callee = _plane(wires, authority, api)
        wires.listening = {
            SIDECAR: lambda: InboundArrival(callee, "api"),
            APPLICATION: lambda: Application(self),
            1: lambda: OutboundArrival(caller, "web", "api"),
        }
        self._caller = Caller()
        wires.connect(self._caller, 1)
        for _ in range(WARM * len(ports) ** 2):
            before = self._caller.received
            self._write()
            async with asyncio.timeout(10):
                while self._caller.received == before:
                    wires.pump()
                    await asyncio.sleep(0)

    def ask(self) -> None:
        before = self._caller.received
        self._write()
        self._wires.pump()
        assert self._caller.received > before

    def _write(self) -> None:
        self._count += 1
        for piece in self._request():
            self._caller.transport.write(piece)

    def _request(self) -> list[bytes]:
        mark = b"%016x" % (self._count * 0x9E3779B97F4A7C15 % 2**64)
        if self._work == "tcp":
            return [mark * 1024]
        lines = [
            b"%s /%s/%d?page=1 HTTP/1.1"
            % (b"POST" if self._work == "64k" else b"GET", self._work.encode(), self._count),
            b"Host: api.example",
            b"User-Agent: bench/1.0",
            b"Accept: application/json",
            b"Accept-Encoding: gzip, deflate",
            b"X-Request-Id: " + mark,
            b"Cookie: session=" + mark + b"; theme=dark",
            b"Authorization: Bearer " + mark + mark,
            b"traceparent: 00-" + mark + mark + b"-" + mark + b"-01",
        ]
        if self._work == "4k":
            lines += [
                b"Accept-Language: en-GB,en;q=0.9,de;q=0.8",
                b"Cache-Control: no-cache",
                b"Referer: https://shop.example/catalogue/%d" % self._count,
                b"X-Tenant: tenant-%d" % (self._count % 100),
            ]
        if self._work != "64k":
            return [b"\r\n".join([*lines, b"", b""])]
        lines.append(b"Content-Length: %d" % self.body)
        head = b"\r\n".join([*lines, b"", b""])
        return [head, *(mark * 1024 for _ in range(self.body // 16384))]


def _routed(api: Upstream) -> Upstream:
    """With the benchmark's fifty routes."""
    targets = {
        f"other{number}": upstream(f"other{number}", 1).target for number in range(ELSEWHERE)
    }
    targets["api"] = api.target
    led = [replace(route, target=targets[service(n)]) for n, route in enumerate(routes())]
    return replace(api, routes=tuple(led))


def _plane(wires: Wires, authority: Authority, service: LocalService, *to: Upstream) -> Plane:
    what: Snapshot = snapshot(authority, (service,), to, default_allow=False)
    table = link(what, 1, None, 0)
    loop: Any = wires
    plane = Plane(loop, HttpSettings(), TcpSettings(), table)
    leaf, roots = service.leaf, what.roots
    assert leaf is not None
    identity = Identity(
        leaf.serial,
        leaf.not_after,
        client_context(roots, leaf),
        client_context(roots, leaf, STREAMS),
        server_context(roots, leaf, STREAMS),
    )
    plane.publish(table, {service.name: identity})
    return plane


def count(work: str) -> dict[str, float]:
    """Calls and bytecode instructions of one request of `work`."""
    return asyncio.run(_count(work))


async def _count(work: str) -> dict[str, float]:
    replay = Replay(work)
    await replay.start()
    calls = instructions = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal instructions
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            instructions += 1
        return trace

    switches: Any = ((sys.setprofile, profile), (sys.settrace, trace))
    for switch, function in switches:
        for _ in range(COUNTED):
            switch(function)
            try:
                replay.ask()
            finally:
                switch(None)
    return {"calls": calls / COUNTED, "instructions": instructions / COUNTED}


WORKS = ("small", "several", "4k", "64k", "tcp")


def main() -> None:
    counts = {work: count(work) for work in WORKS}
    print(json.dumps(counts, indent=1))
    if "--write" in sys.argv:
        budget = {
            work: {what: round(number * HEADROOM) for what, number in numbers.items()}
            for work, numbers in counts.items()
        }
        BUDGET.write_text(json.dumps(budget, indent=2) + "\n")
    if "--time" in sys.argv:
        for work in WORKS:
            asyncio.run(_time(work))


async def _time(work: str) -> None:
    replay = Replay(work)
    await replay.start()
    begin = time.process_time()
    for _ in range(2000):
        replay.ask()
    print(f"{work}: {(time.process_time() - begin) / 2000 * 1e6:.1f} µs in this process")


if __name__ == "__main__":
    main()
