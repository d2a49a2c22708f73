"""A worker that does as its snapshot says: `hang` stops reading, `mute` never applies, `refuse`
applies with an error, `die` exits with 3, `ask` asks for an address, `eject` shares an ejection;
anything else is applied. Its report counts one request per worker number, and one connection per
socket that it was given, per answer and per ejection that it heard of; its access
records are of every other second from its number on."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket

from tests.support.record import record

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
    Publish,
    Recorded,
    Reported,
    ToWorker,
)
from fleetmesh.model.report import (
    ConnectionCount,
    Direction,
    Ejection,
    Report,
    RequestCount,
)

EJECTION = Ejection("api.default.dc1", 5.0, "node1/api", "5xx", 30.0)


async def serve(channel: Channel, number: int) -> None:
    generation = sockets = 0
    while True:
        message, fds = await channel.receive()
        match message:
            case Publish(next_generation, snapshot, _, attached):
                sockets += len(fds)
                assert len(attached) == len(fds)
                if snapshot == b"die":
                    os._exit(3)
                if snapshot == b"hang":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if snapshot == b"mute":
                    continue
                if snapshot == b"ask":
                    await channel.send(Ask("10.0.0.9", 8000))
                if snapshot == b"eject":
                    await channel.send(Ejections((EJECTION,)))
                generation = next_generation
                error = "it is wrong" if snapshot == b"refuse" else ""
                await channel.send(Applied(generation, error))
            case Answered("10.0.0.9", 8000):
                sockets += 1
            case Ejections(ejections):
                sockets += len(ejections)
            case Collect(request):
                report = Report(
                    os.getpid(),
                    generation,
                    (RequestCount(Direction.INBOUND, "a", "b", 200, number),),
                    (ConnectionCount(Direction.INBOUND, "a", "b", "http", sockets, 1, 0, 0),),
                )
                await channel.send(Reported(request, report))
            case CollectRecords(request, limit):
                times = range(number, 10, 2)[-limit:]
                records = tuple(record(time=float(time)) for time in times)
                await channel.send(Recorded(request, records))
            case Drain(_, True):
                await channel.send(HandedOver())
                # asyncio's own loop: the end of stream of another's socket, in a thread.
                await asyncio.to_thread(os.read, fds[0], 1)
                return
            case Drain():
                return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--shared", type=int, required=True)
    parser.add_argument("--settings", required=True)
    options = parser.parse_args()
    channel = Channel(socket.socket(fileno=options.channel), ToWorker)
    try:
        asyncio.run(serve(channel, options.worker))
    except ChannelClosedError:
        pass


if __name__ == "__main__":
    main()
