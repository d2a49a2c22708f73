"""One worker process as the controller sees it: its channel, what it has, what it said last."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from fleetmesh.edge import tls
from fleetmesh.edge.ipc import (
    MAX_FDS,
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
    Listener,
    Part,
    Publish,
    Recorded,
    Reported,
    ToController,
)
from fleetmesh.model.fault import Fault
from fleetmesh.model.record import Record
from fleetmesh.model.report import Ejection, Report
from fleetmesh.process.tasks import TaskSet
from fleetmesh.settings import WorkerSettings

log = logging.getLogger(__name__)

WORKER_MODULE = "fleetmesh.process.worker"
APPLY_TIMEOUT = 10.0
START_TIMEOUT = 30.0
"""Seconds for a worker's first publication: its process starts meanwhile, on a host that may be
short of processor time."""
REPORT_TIMEOUT = 10.0
KILL_GRACE = 2.0
"""Seconds beyond its drain time until a worker that has not exited is killed."""
NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""Only the controller speaks to the service manager."""
OPENSSL_CONF = Path(tls.__file__).with_name("openssl.cnf")


def environment() -> dict[str, str]:
    """What a worker is started with."""
    inherited = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    return {"OPENSSL_CONF": str(OPENSSL_CONF), **inherited}


Resolve = Callable[[str, int], Awaitable[None]]
"""Finds whose an address and port are, and returns when the workers have been told or nothing is
found. Never fails."""


Share = Callable[["Worker", tuple[Ejection, ...]], None]
"""Tells all workers but that one of what it found."""


class Publication(msgspec.Struct, frozen=True):
    """What every worker shall serve; `sockets` by listener name."""

    generation: int
    snapshot: bytes
    listeners: tuple[Listener, ...]
    sockets: Mapping[str, socket.socket]
    faults: tuple[Fault, ...] = ()


class Worker:
    """A running process. `number` tells workers apart in logs; `generation` is the last one that
    it applied, `report` the last that it sent, `restarts` how many died in its place before."""

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        channel: Channel,
        tasks: TaskSet,
        resolve: Resolve,
        share: Share,
    ) -> None:
        self.number = number
        self.generation = 0
        self.report = Report(pid=process.pid, generation=0)
        self.restarts = 0
        self.draining = False
        self._process = process
        self._channel = channel
        self._tasks = tasks
        self._resolve = resolve
        self._share = share
        self._has: dict[str, socket.socket] = {}
        self._publishing = asyncio.Lock()
        self._applied: asyncio.Future[Applied] | None = None
        self._handed_over = asyncio.Event()
        self._asking: dict[int, asyncio.Future[Reported | Recorded]] = {}
        self._asked = 0
        tasks.spawn(self._listen(), f"worker {number} channel")

    @classmethod
    async def spawn(
        cls,
        number: int,
        settings: WorkerSettings,
        shared: int,
        tasks: TaskSet,
        resolve: Resolve,
        share: Share,
    ) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                WORKER_MODULE,
                "--channel",
                str(theirs.fileno()),
                "--worker",
                str(number),
                "--shared",
                str(shared),
                "--settings",
                msgspec.json.encode(settings).decode(),
                pass_fds=(theirs.fileno(), shared),
                env=environment(),
            )
        return cls(number, process, Channel(ours, ToController), tasks, resolve, share)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def memory(self) -> int:
        """Resident bytes, 0 when the process is gone."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as statm:  # noqa: PTH123
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    async def wait(self) -> int:
        """The exit status, as asyncio gives it: minus the signal's number for a killed one."""
        return await self._process.wait()

    def kill(self) -> None:
        try:
            self._process.kill()
        except ProcessLookupError:
            pass

    async def publish(self, publication: Publication) -> str:
        """Hand over and wait until it is applied; the reason when it is not, else an empty text.

        At most MAX_FDS sockets ride on one message: more of them come in several messages, each
        with the listeners that the worker has sockets for by then.
        """
        async with self._publishing:
            wanted = {listener.name for listener in publication.listeners}
            self._has = {name: sock for name, sock in self._has.items() if name in wanted}
            fresh = [
                listener.name
                for listener in publication.listeners
                if self._has.get(listener.name) is not publication.sockets[listener.name]
            ]
            error = ""
            for start in range(0, max(len(fresh), 1), MAX_FDS):
                attached = tuple(fresh[start : start + MAX_FDS])
                self._has.update((name, publication.sockets[name]) for name in attached)
                error = await self._publish(publication, attached)
                if error:
                    break
            return error

    async def _publish(self, publication: Publication, attached: tuple[str, ...]) -> str:
        self._applied = asyncio.get_running_loop().create_future()
        timeout = APPLY_TIMEOUT if self.generation else START_TIMEOUT
        message = Publish(
            publication.generation,
            publication.snapshot,
            tuple(item for item in publication.listeners if item.name in self._has),
            attached,
            publication.faults,
        )
        try:
            async with asyncio.timeout(timeout):
                fds = [publication.sockets[name].fileno() for name in attached]
                await self._channel.send(message, fds)
                answer = await self._applied
        except TimeoutError:
            self.kill()  # it may still allow what is now denied
            return f"no answer within {timeout:g} s"
        except ChannelClosedError as error:
            return str(error)
        return answer.error

    async def collect(self) -> Report | None:
        """A fresh report; None when the worker does not answer in time."""
        self._asked += 1
        answer = await self._ask(Collect(self._asked))
        if not isinstance(answer, Reported):
            return None
        self.report = answer.report
        return self.report

    async def records(self, limit: int) -> tuple[Record, ...]:
        """Its newest access records; none when it does not answer in time."""
        self._asked += 1
        answer = await self._ask(CollectRecords(self._asked, limit))
        return answer.records if isinstance(answer, Recorded) else ()

    async def _ask(self, question: Collect | CollectRecords) -> Reported | Recorded | None:
        answer: asyncio.Future[Reported | Recorded] = asyncio.get_running_loop().create_future()
        self._asking[question.request] = answer
        try:
            async with asyncio.timeout(REPORT_TIMEOUT):
                await self._channel.send(question)
                return await answer
        except (TimeoutError, ChannelClosedError):
            return None
        finally:
            self._asking.pop(question.request, None)

    async def part(self, service: str) -> None:
        """End what callers have to `service`. A worker that is gone has nothing of it."""
        try:
            await self._channel.send(Part(service))
        except ChannelClosedError:
            pass

    async def drain(self, seconds: float) -> None:
        """Let it finish, then wait until it is gone; killed when it takes too long."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds + KILL_GRACE):
                await self._channel.send(Drain(seconds))
                await self._process.wait()
        except (ChannelClosedError, TimeoutError):
            self.kill()
            await self._process.wait()

    async def hand_over(self, seconds: float, sign: int) -> bool:
        """Let it serve on without us, until the other end of the socket `sign` is closed, and then
        drain. Whether it will: one that does not say so in time is killed."""
        self.draining = True
        try:
            async with asyncio.timeout(REPORT_TIMEOUT):
                await self._channel.send(Drain(seconds, handover=True), [sign])
                await self._handed_over.wait()
        except (ChannelClosedError, TimeoutError):
            self.kill()
            return False
        return True

    async def _listen(self) -> None:
        try:
            while True:
                message, _ = await self._channel.receive()
                if isinstance(message, Applied | Reported | Recorded):
                    self._heard(message)
                elif isinstance(message, Ejections):
                    self._share(self, message.ejections)
                elif isinstance(message, HandedOver):
                    self._handed_over.set()
                elif isinstance(message, Ask):
                    self._tasks.spawn(self._answer(message), f"question of worker {self.number}")
        except ChannelClosedError as error:
            self._channel.close()
            if not self.draining:
                self.kill()  # without a channel it can only serve what is outdated
            for future in (self._applied, *self._asking.values()):
                if future is not None and not future.done():
                    future.set_exception(ChannelClosedError(str(error)))
                    future.exception()

    async def _answer(self, question: Ask) -> None:
        await self._resolve(question.address, question.port)
        await self.tell(Answered(question.address, question.port))

    async def tell(self, message: Answered | Ejections) -> None:
        """Nothing happens when it is gone."""
        try:
            await self._channel.send(message)
        except ChannelClosedError:
            pass

    def _heard(self, message: Applied | Reported | Recorded) -> None:
        match message:
            case Applied(generation, error):
                if not error:
                    self.generation = generation
                if self._applied is not None and not self._applied.done():
                    self._applied.set_result(message)
            case Reported() | Recorded():
                waiting = self._asking.get(message.request)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
