"""Answers DNS for the services of this host between two agents.

A process of its own, which an agent starts when another is about to follow it, and which ends once
that one answers. It knows what the agent knew: names of the mesh that were in use, Consul, the
host's resolvers. What it does not know waits for the next agent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence

import msgspec
import uvloop

from fleetmesh.edge.confinement import drop_privileges, outlive_controller
from fleetmesh.edge.dns import DnsServer, Names
from fleetmesh.edge.resolvers import Server
from fleetmesh.edge.systemd import setup_logging
from fleetmesh.process.succession import succeeded

MODULE = "fleetmesh.process.stand_in"
BEGIN = 5.0
"""Seconds until it answers; an agent does not wait longer for it."""
LINGER = 1.5
"""Seconds from that sign, which is given when the workers serve, until the agent answers DNS. Both
read from the same sockets meanwhile."""
READY = b"ready\n"


class Known(msgspec.Struct, frozen=True):
    """`addresses` by MeshName.key, `local` and `datacenters` as in edge.dns.Names; `ttl` in
    seconds; `consul` is where its agent answers DNS."""

    addresses: dict[str, tuple[str, ...]]
    local: str
    datacenters: tuple[str, ...]
    ttl: int
    consul: Server


async def begin(known: Known, sockets: Sequence[socket.socket], sign: int) -> bool:
    """Start one on bound `sockets`, which stay the caller's too, to end when the other end of the
    socket `sign` is closed; whether it answers."""
    fds = [sock.fileno() for sock in sockets]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULE, "--sign", str(sign), *map(str, fds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=(sign, *fds),
    )
    if process.stdin is None or process.stdout is None:
        return False
    said = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(BEGIN):
            process.stdin.write(msgspec.json.encode(known))
            process.stdin.close()
            said = await process.stdout.readline()
    if said != READY:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return said == READY


async def _stand_in(known: Known, sockets: list[socket.socket], sign: socket.socket) -> None:
    over = asyncio.Event()

    async def used(service: str) -> bool:
        """Of one that nobody has used yet its client is told to ask once more, when there is
        somebody who can find out."""
        if not known.addresses.get(service):
            await over.wait()
        return True

    names = Names(
        used,
        lambda service: known.addresses.get(service, ()),
        lambda: known.local,
        lambda: frozenset(known.datacenters),
    )
    server = DnsServer(names, known.ttl, known.consul)
    await server.start(sockets)
    outlive_controller()
    os.write(1, READY)
    await succeeded(sign)
    await asyncio.sleep(LINGER)
    server.stop()
    over.set()
    await asyncio.sleep(0.1)
    await server.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="fleetmesh-stand-in")
    parser.add_argument("--sign", type=int, required=True, help="closed by the next agent")
    parser.add_argument("sockets", type=int, nargs="+", help="descriptors of the DNS sockets")
    options = parser.parse_args()
    drop_privileges()
    setup_logging("info")
    known = msgspec.json.decode(sys.stdin.buffer.read(), type=Known)
    sign = socket.socket(fileno=options.sign)
    sockets = [socket.socket(fileno=fd) for fd in options.sockets]
    uvloop.run(_stand_in(known, sockets, sign))
    return 0


if __name__ == "__main__":
    sys.exit(main())
