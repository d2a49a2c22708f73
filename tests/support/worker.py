"""Worker processes without a controller: snapshots and sockets handed over by the test itself."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from types import TracebackType
from typing import Self

import msgspec
from tests.support.ca import TRUST_DOMAIN, Authority, spiffe

from fleetmesh.core.buckets import BYTES
from fleetmesh.edge import shared_memory
from fleetmesh.edge.ipc import (
    Applied,
    Channel,
    Collect,
    CollectRecords,
    Drain,
    Ejections,
    Listener,
    ListenerKind,
    Publish,
    Recorded,
    Reported,
    ToController,
    ToWorker,
)
from fleetmesh.model.fault import Fault
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention
from fleetmesh.model.record import Record
from fleetmesh.model.report import Ejection, Report
from fleetmesh.model.snapshot import Leaf, LocalService, Mode, Snapshot, encode
from fleetmesh.model.traffic import Endpoint, Protocol, Target, Upstream
from fleetmesh.process.workers import environment
from fleetmesh.settings import WorkerSettings


def local_service(
    name: str,
    port: int,
    leaf: Leaf | None,
    *,
    protocol: Protocol = Protocol.HTTP,
    mode: Mode = Mode.STRICT,
    intentions: tuple[Intention, ...] = (),
) -> LocalService:
    return LocalService(
        name, name, "127.0.0.1", port, protocol, mode, spiffe(name), intentions, leaf
    )


def upstream(
    name: str,
    *ports: int,
    protocol: Protocol = Protocol.HTTP,
    destinations: tuple[tuple[str, int], ...] = (),
    identity: str = "",
) -> Upstream:
    """`ports` are the endpoints' sidecars on 127.0.0.1; `identity` another service's name that
    they must prove."""
    return Upstream(
        name,
        protocol,
        Target(
            id=f"{name}.default.dc1",
            service=name,
            datacenter="dc1",
            sni=f"{name}.default.dc1.internal.{TRUST_DOMAIN}",
            spiffe_id=spiffe(identity or name),
            endpoints=tuple(
                Endpoint(f"node{number}/{name}", "127.0.0.1", port)
                for number, port in enumerate(ports)
            ),
        ),
        destinations,
    )


def snapshot(
    authority: Authority,
    services: tuple[LocalService, ...] = (),
    upstreams: tuple[Upstream, ...] = (),
    *,
    default_allow: bool = True,
    mesh_destinations_only: bool = False,
) -> Snapshot:
    return Snapshot(
        TRUST_DOMAIN,
        "dc1",
        "test",
        (authority.root,),
        services,
        upstreams,
        default_allow,
        mesh_destinations_only,
    )


def deny(source: str, destination: str) -> Intention:
    return Intention(source, destination, Action.DENY, 9)


def listening(host: str = "127.0.0.1") -> socket.socket:
    """A listening socket on a port that the kernel chooses."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, 0))
    sock.listen(1024)
    return sock


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def outbound(service: str, to: str) -> Listener:
    """Every connection goes to the upstream `to`: no capture is asked."""
    return Listener(f"out4.{service}.{to}", ListenerKind.OUTBOUND, service, to)


def inbound(service: str) -> Listener:
    return Listener(f"in.{service}", ListenerKind.INBOUND, service)


class WorkerProcess:
    """`python -m fleetmesh.process.worker`, spoken to as a controller would."""

    def __init__(
        self,
        number: int = 0,
        settings: WorkerSettings | None = None,
        netns: str = "",
        memory: int = -1,
    ) -> None:
        """`memory` is a descriptor that it shares with others, -1 for memory of its own."""
        self._number = number
        self._settings = settings or WorkerSettings()
        self._netns = netns
        self._memory = os.dup(memory) if memory >= 0 else shared_memory.create(BYTES)
        self._generation = 0
        self._requests = 0
        self._given: set[str] = set()
        self.shared: tuple[Ejection, ...] = ()

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        enter = ["ip", "netns", "exec", self._netns] if self._netns else []
        self.process = await asyncio.create_subprocess_exec(
            *enter,
            sys.executable,
            "-m",
            "fleetmesh.process.worker",
            "--channel",
            str(theirs.fileno()),
            "--worker",
            str(self._number),
            "--shared",
            str(self._memory),
            "--settings",
            msgspec.json.encode(self._settings).decode(),
            pass_fds=[theirs.fileno(), self._memory],
            env=environment(),
        )
        theirs.close()
        os.close(self._memory)
        self.channel = Channel(ours, ToController)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()
        try:
            await asyncio.wait_for(self.process.wait(), 5)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise

    async def publish(
        self,
        what: Snapshot,
        listeners: dict[Listener, socket.socket],
        faults: tuple[Fault, ...] = (),
    ) -> Applied:
        """Hand over `what` with `faults`, and the sockets that the worker does not have yet."""
        self._generation += 1
        fresh = {item: sock for item, sock in listeners.items() if item.name not in self._given}
        self._given |= {item.name for item in fresh}
        await self.channel.send(
            Publish(
                self._generation,
                encode(what),
                tuple(listeners),
                tuple(item.name for item in fresh),
                faults,
            ),
            [sock.fileno() for sock in fresh.values()],
        )
        answer = await self._receive()
        assert isinstance(answer, Applied), answer
        return answer

    async def report(self) -> Report:
        self._requests += 1
        await self.channel.send(Collect(self._requests))
        answer = await self._receive()
        assert isinstance(answer, Reported), answer
        return answer.report

    async def records(self, limit: int = 1000) -> tuple[Record, ...]:
        """Its access records, oldest first."""
        self._requests += 1
        await self.channel.send(CollectRecords(self._requests, limit))
        answer = await self._receive()
        assert isinstance(answer, Recorded), answer
        return answer.records

    async def _receive(self) -> ToController | ToWorker:
        """The next answer; what it tells of ejections meanwhile stands in `shared`."""
        while True:
            message, _ = await self.channel.receive()
            if not isinstance(message, Ejections):
                return message
            self.shared += message.ejections

    async def hear(self, *ejections: Ejection) -> None:
        """As another worker found."""
        await self.channel.send(Ejections(ejections))

    async def drain(self, seconds: float) -> int:
        """Its exit code."""
        await self.channel.send(Drain(seconds))
        return await self.process.wait()
