"""A worker: carries traffic for a controller at the other end of a socket pair.

It holds no capability, opens no listening socket and reads no file but `/proc/self/fd`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

import msgspec
import re2
import uvloop

from fleetmesh.core.buckets import BYTES, Buckets
from fleetmesh.core.faults import counts
from fleetmesh.core.frames import STREAMS
from fleetmesh.core.table import link
from fleetmesh.edge import journal, shared_memory
from fleetmesh.edge.confinement import (
    drop_privileges,
    keep_freed_memory,
    open_files,
    outlive_controller,
    raise_open_files,
)
from fleetmesh.edge.ipc import (
    Answered,
    Applied,
    Ask,
    Channel,
    ChannelClosedError,
    Collect,
    CollectRecords,
    Drain,
    Ejections,
    HandedOver,
    Part,
    Publish,
    Recorded,
    Reported,
    ToController,
    ToWorker,
)
from fleetmesh.edge.systemd import setup_logging
from fleetmesh.edge.tls import IdentityError, client_context, server_context
from fleetmesh.model.report import Ejection, Report, Served
from fleetmesh.model.snapshot import Leaf, LocalService, Snapshot, decode
from fleetmesh.process.accepting import Acceptor
from fleetmesh.process.succession import succeeded
from fleetmesh.proxy.access import AccessLog
from fleetmesh.proxy.asking import Questions
from fleetmesh.proxy.crowd import most_connections
from fleetmesh.proxy.parting import end_older, part
from fleetmesh.proxy.plane import GRACE, Identity, Plane
from fleetmesh.proxy.warm import warm
from fleetmesh.settings import AccessLogMode, AccessLogSettings, WorkerSettings

_log = logging.getLogger("fleetmesh.process.worker")  # run as __main__

_EMPTY = Snapshot("", "", "", (), (), ())


class Worker:
    """The composition root: a plane, the sockets it accepts from, the channel."""

    def __init__(
        self, channel: Channel, number: int, settings: WorkerSettings, buckets: Buckets
    ) -> None:
        self._channel = channel
        self._number = number
        self._plane = Plane(
            asyncio.get_running_loop(),
            settings.http,
            settings.tcp,
            link(_EMPTY, 0, None, number),
            settings.tracing,
            _access_log(settings.access_log),
        )
        self._plane.most_connections = most_connections(settings.max_connections, open_files())
        self._plane.unreachable_after = settings.upstream.unreachable_after
        if settings.on_demand:
            self._plane.questions = Questions(self._ask)
        self._plane.share = self._share
        self._upstream = settings.upstream
        self._workers = settings.workers
        self._buckets = buckets
        self._acceptor = Acceptor(self._plane)
        self._leaves: dict[str, tuple[tuple[str, ...], Leaf]] = {}

    async def run(self) -> None:
        """Serve until drained. Raises ChannelClosedError."""
        while True:
            message, fds = await self._channel.receive()
            if isinstance(message, Publish):
                await self._publish(message, fds)
            elif isinstance(message, Drain):
                if message.handover:
                    await self._await_successor(socket.socket(fileno=fds[0]))
                await self._drain(message.seconds, 0.0 if message.handover else GRACE)
                return
            else:
                await self._attend(message)

    async def _attend(self, message: ToController | ToWorker) -> None:
        """To what is the same whether the worker drains or not."""
        if isinstance(message, Collect | CollectRecords):
            await self._answer(message)
        elif isinstance(message, Answered | Ejections):
            self._learn(message)
        elif isinstance(message, Part):
            part(self._plane, message.service)

    async def _publish(self, message: Publish, fds: Sequence[int]) -> None:
        self._acceptor.take(message.attached, fds)
        first = not self._plane.table.generation
        problems = await self._swap(message)
        if problems is None:
            return
        problems += await self._acceptor.listen(message.listeners, frozenset(message.attached))
        if first:
            # What exists now stays: no collection need ever look at it again.
            gc.collect()
            gc.freeze()
        await self._channel.send(Applied(message.generation, "; ".join(problems)))

    async def _swap(self, message: Publish) -> list[str] | None:
        """Serve the snapshot; the problems with identities. None: it was refused, and told."""
        try:
            snapshot = decode(message.snapshot)
        except msgspec.DecodeError as error:
            await self._channel.send(Applied(message.generation, f"snapshot: {error}"))
            return None
        plane = self._plane
        problems: list[str] = []
        identities = self._identities(snapshot, problems)
        try:
            table = link(
                snapshot,
                message.generation,
                plane.table,
                self._number,
                self._upstream,
                plane.now,
                plane.draw(),
                self._workers,
                () if plane.draining else message.faults,
                self._buckets,
            )
        except re2.error as error:  # a controller that checks its routes never sends one
            await self._channel.send(Applied(message.generation, f"routes: {error}"))
            return None
        plane.publish(table, identities)
        warm(plane, self._upstream.warm_connections)
        return problems

    def _identities(self, snapshot: Snapshot, problems: list[str]) -> dict[str, Identity]:
        """Contexts for every service that has a leaf; those of an unchanged leaf are kept, and
        with them the TLS sessions that can be resumed."""
        identities: dict[str, Identity] = {}
        share = self._plane.tcp.share_connections
        leaves: dict[str, tuple[tuple[str, ...], Leaf]] = {}
        for service in snapshot.services:
            leaf = service.leaf
            if leaf is None:
                continue
            known = self._plane.identities.get(service.name)
            if known is not None and self._leaves.get(service.name) == (snapshot.roots, leaf):
                identities[service.name] = known
                leaves[service.name] = (snapshot.roots, leaf)
                continue
            try:
                identities[service.name] = _identity(snapshot, leaf, share)
                leaves[service.name] = (snapshot.roots, leaf)
            except IdentityError as error:
                problems.append(f"{service.name}: {error}")
                if known is not None and self._may_keep(service, known):
                    identities[service.name] = known
        self._leaves = leaves
        return identities

    def _may_keep(self, service: LocalService, known: Identity) -> bool:
        """An identity whose successor is of no use serves on, as long as it is valid and the
        trust it was built with is still the same service's."""
        entry = self._plane.table.services.get(service.name)
        return (
            entry is not None
            and entry.service.spiffe_id == service.spiffe_id
            and known.not_after > time.time()
        )

    async def _answer(self, question: Collect | CollectRecords) -> None:
        if isinstance(question, Collect):
            await self._channel.send(Reported(question.request, self._report()))
        else:
            log = self._plane.access
            records = log.records(question.limit) if log is not None else ()
            await self._channel.send(Recorded(question.request, records))

    def _ask(self, address: str, port: int) -> None:
        self._plane.spawn(self._send(Ask(address, port)))

    async def _send(self, message: Ask | Ejections) -> None:
        try:
            await self._channel.send(message)
        except ChannelClosedError:
            pass  # the channel's reader ends this worker

    def _share(self, ejections: list[Ejection]) -> None:
        self._plane.spawn(self._send(Ejections(tuple(ejections))))

    def _learn(self, told: Answered | Ejections) -> None:
        """What was published before an answer is served by now."""
        plane = self._plane
        if isinstance(told, Ejections):
            for ejection in told.ejections:
                plane.table.heard(ejection, plane.now)
        elif plane.questions is not None:
            plane.questions.answered((told.address, told.port), plane.now)

    def _report(self) -> Report:
        identities = self._plane.identities
        served = tuple(
            Served(name, identity.serial, identity.not_after)
            for name, identity in identities.items()
        )
        report = self._plane.telemetry.report(os.getpid(), self._plane.table.generation, served)
        table = self._plane.table
        return msgspec.structs.replace(
            report,
            under_way=table.under_way(),
            ejections=table.ejection_counts(),
            ejected=table.ejected(),
            faults=counts(table.hits),
        )

    async def _await_successor(self, sign: socket.socket) -> None:
        """Serve on until the next agent does, whether or not this one's controller lives."""
        self._plane.table.end_faults()
        outlive_controller()
        await self._channel.send(HandedOver())
        listening = asyncio.ensure_future(self._keep_listening())
        await succeeded(sign)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    async def _drain(self, seconds: float, grace: float) -> None:
        """Finish what is under way, but not for longer than `seconds`; where a successor serves,
        each request that begins on a kept connection meanwhile has as long, and a kept connection
        is closed after as long without one.

        For `grace` seconds new connections are still accepted, for one request each: where there
        is no successor, callers should not wait longer than need be for one. A worker whose
        successor serves has none to give, and no controller.
        """
        plane = self._plane
        begin = time.monotonic()
        end = begin + seconds
        last_accepted = begin + min(grace, seconds / 2)
        if not grace:
            self._acceptor.stop()
        plane.drain(grace or max(GRACE, seconds))
        plane.table.end_faults()
        collecting = asyncio.ensure_future(self._keep_listening())
        left = 0
        while plane.connections and not (collecting.done() and grace):
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if now >= last_accepted:
                self._acceptor.stop()
            if now >= end:
                if grace or now >= end + seconds:
                    break
                left += end_older(plane, begin)
        self._acceptor.stop()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        left += plane.abort_all()
        fields = {"event": "drained", "cut": str(left)}
        _log.info("drained, %d connections cut", left, extra={"fields": fields})
        await asyncio.sleep(0)

    async def _keep_listening(self) -> None:
        """A draining worker still answers Collect, and a new denial still ends what it forbids;
        listeners are its successor's."""
        while True:
            message, fds = await self._channel.receive()
            for fd in fds:
                os.close(fd)
            if isinstance(message, Publish):
                problems = await self._swap(message)
                if problems is not None:
                    await self._channel.send(Applied(message.generation, "; ".join(problems)))
            else:
                await self._attend(message)


def _identity(snapshot: Snapshot, leaf: Leaf, share: bool) -> Identity:
    return Identity(
        leaf.serial,
        leaf.not_after,
        client_context(snapshot.roots, leaf),
        client_context(snapshot.roots, leaf, STREAMS),
        server_context(snapshot.roots, leaf, *([STREAMS] if share else [])),
    )


def _access_log(settings: AccessLogSettings) -> AccessLog | None:
    match settings.mode:
        case AccessLogMode.OFF:
            return None
        case AccessLogMode.RING:
            return AccessLog(settings, None)
        case AccessLogMode.JOURNAL:
            return AccessLog(settings, journal.sink())


async def _serve(channel_fd: int, number: int, settings: WorkerSettings, buckets: Buckets) -> int:
    loop = asyncio.get_running_loop()
    channel = Channel(socket.socket(fileno=channel_fd), ToWorker)
    running = asyncio.ensure_future(Worker(channel, number, settings, buckets).run())
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await running
    except (ChannelClosedError, asyncio.CancelledError):
        return 0
    finally:
        channel.close()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fleetmesh-worker")
    parser.add_argument("--channel", type=int, required=True, help="the socket pair's descriptor")
    parser.add_argument("--worker", type=int, required=True, help="this worker's number")
    parser.add_argument(
        "--shared", type=int, required=True, help="the descriptor of what all workers share"
    )
    parser.add_argument("--settings", default="{}", help="WorkerSettings as JSON")
    options = parser.parse_args(arguments)
    settings = msgspec.json.decode(options.settings, type=WorkerSettings)
    # A terminal's Ctrl-C reaches the whole group; when to go is the controller's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_privileges()
    keep_freed_memory()
    raise_open_files()
    setup_logging(settings.log_level)
    buckets = Buckets(shared_memory.attach(options.shared, BYTES))
    return uvloop.run(_serve(options.channel, options.worker, settings, buckets))


if __name__ == "__main__":
    sys.exit(main())
