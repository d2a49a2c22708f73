"""What a fleet's watches cost a Consul server: many agents' real watches against one real server.

`python -m tests.bench.consul_load` runs 50 agents of 20 upstreams for a minute without a change and
a minute with one instance changed a second, and prints requests a second and CPU of the server. The
agents are `edge.watch` and `edge.consul` in one process, over loopback; the server is the agent
that they ask too, so a request here is one at the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.consul import ConsulServer, running_consul

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import Answer
from fleetmesh.edge.watch import follow
from fleetmesh.plan.chain import InstanceQuery

FIXED = 5
"""Roots, intentions, catalog, service-defaults, proxy-defaults."""
SETTLE = 6.0
"""Seconds in which first answers come and the queries' token buckets fill again."""


class Row:
    """Of one phase, each a second: `requests`, the server's `cpu`, `changes` brought."""

    def __init__(self, phase: str, requests: float, cpu: float, changes: float) -> None:
        self.phase = phase
        self.requests = requests
        self.cpu = cpu
        self.changes = changes

    def __str__(self) -> str:
        return (
            f"| {self.phase} | {self.requests:.1f} | {self.changes:.1f} | {self.cpu * 1000:.0f} |"
        )


class Fleet:
    """`queries` counts what was asked, `answers` what brought something new."""

    def __init__(self, address: str, agents: int, upstreams: int) -> None:
        self.queries = self.answers = self.errors = 0
        self._clients = [ConsulClient(address) for _ in range(agents)]
        self._names = [_name(number) for number in range(upstreams)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for client in self._clients:
            self._watch(client.roots)
            self._watch(client.intentions)
            self._watch(client.catalog)
            self._watch(client.service_defaults)
            self._watch(client.proxy_defaults)
            for name in self._names:
                self._watch(_instances(client, name))
                self._watch(_chain(client, name))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()

    def _watch(self, query: Callable[[int], Awaitable[Answer[Any]]]) -> None:
        async def asked(index: int) -> Answer[Any]:
            self.queries += 1
            return await query(index)

        async def changed(_: Answer[Any]) -> None:
            self.answers += 1

        def failed(error: Exception | None, _age: float) -> None:
            self.errors += error is not None

        self._tasks.append(asyncio.ensure_future(follow(asked, changed, failed)))


def _instances(client: ConsulClient, name: str) -> Callable[[int], Awaitable[Answer[Any]]]:
    return lambda index: client.instances(InstanceQuery(name), index)


def _chain(client: ConsulClient, name: str) -> Callable[[int], Awaitable[Answer[Any]]]:
    return lambda index: client.chain(name, index)


def _name(number: int) -> str:
    return f"svc{number:03}"


def register(consul: ConsulServer, number: int, revision: int) -> None:
    name = _name(number)
    sidecar = {
        "ID": f"{name}-sidecar-proxy",
        "Service": f"{name}-sidecar-proxy",
        "Kind": "connect-proxy",
        "Port": 21000,
        "Meta": {"revision": str(revision)},
        "Proxy": {"DestinationServiceName": name, "LocalServicePort": 8000},
    }
    node = {"Node": f"node{number}", "Address": f"10.98.0.{number + 1}", "Service": sidecar}
    consul.put("/v1/catalog/register", node)


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _phase(
    consul: ConsulServer, fleet: Fleet, name: str, seconds: float, upstreams: int, churn: bool
) -> Row:
    queries, answers, cpu, begin = fleet.queries, fleet.answers, _cpu(consul.pid), time.monotonic()
    revision = 0
    while (now := time.monotonic()) < begin + seconds:
        if churn:
            revision += 1
            await asyncio.to_thread(register, consul, revision % upstreams, revision)
        await asyncio.sleep(max(0.0, min(begin + revision, begin + seconds) - now) or 0.1)
    took = time.monotonic() - begin
    return Row(
        name,
        (fleet.queries - queries) / took,
        (_cpu(consul.pid) - cpu) / took,
        (fleet.answers - answers) / took,
    )


async def measure(agents: int, upstreams: int, seconds: float) -> tuple[Row, Row]:
    """Without churn and with one instance changed a second."""
    connections = agents * (FIXED + 2 * upstreams)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(connections + 500, hard), hard))
    config = {"limits": {"http_max_conns_per_client": connections + 100}}
    with (
        tempfile.TemporaryDirectory() as directory,
        running_consul(Path(directory), config) as consul,
    ):
        for number in range(upstreams):
            register(consul, number, 0)
        fleet = Fleet(consul.address, agents, upstreams)
        try:
            fleet.start()
            await asyncio.sleep(SETTLE)
            quiet = await _phase(consul, fleet, "without churn", seconds, upstreams, False)
            busy = await _phase(consul, fleet, "1 change a second", seconds, upstreams, True)
        finally:
            with contextlib.suppress(OSError):
                await fleet.close()
        if fleet.errors:
            raise RuntimeError(f"{fleet.errors} queries failed")
    return quiet, busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--upstreams", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=50.0, help="of each of the two phases")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.agents, options.upstreams, options.seconds))
    connections = options.agents * (FIXED + 2 * options.upstreams)
    print(f"{options.agents} agents of {options.upstreams} upstreams: {connections} watches\n")
    print(
        "| | requests/s | changes brought/s | CPU of the server, ms/s |\n| --- | --- | --- | --- |"
    )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
