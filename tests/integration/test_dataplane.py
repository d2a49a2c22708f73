"""`fleetmesh dataplane`: two of them, one calling the other, from files alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.ca import Authority
from tests.support.worker import listening, local_service, port_of, snapshot, upstream

from fleetmesh.edge.admin import without_keys
from fleetmesh.model.traffic import RateLimit
from fleetmesh.process.snapshot_file import exported

FLEETMESH = Path(sys.executable).with_name("fleetmesh")


class DataPlane:
    """A running process; `said` are its lines up to `ready`."""

    def __init__(self, process: asyncio.subprocess.Process, said: list[str]) -> None:
        self.process = process
        self.ports = {line.partition(" on ")[0]: int(line.rpartition(":")[2]) for line in said}

    async def complains(self) -> str:
        """The start of its next error in the log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(10):
            while True:
                line = (await self.process.stderr.readline()).decode()
                if " ERROR " in line:
                    return line.partition("dataplane ")[2].partition(",")[0]


@asynccontextmanager
async def dataplane(file: Path, workers: int = 1) -> AsyncIterator[DataPlane]:
    process = await asyncio.create_subprocess_exec(
        FLEETMESH,
        "dataplane",
        "--snapshot",
        str(file),
        "--workers",
        str(workers),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
    )
    assert process.stdout is not None
    try:
        said = []
        async with asyncio.timeout(20):
            while (line := (await process.stdout.readline()).decode().strip()) != "ready":
                assert line, "ended before it was ready"
                said.append(line)
        yield DataPlane(process, said)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Files:
    """Data-plane files of `web`, which calls, and `api`, which is called."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = Authority()
        for name in ("web", "api"):
            leaf = self._authority.leaf(name)
            (directory / f"{name}.pem").write_text(leaf.chain)
            (directory / f"{name}.key").write_text(leaf.key or "")

    def write(
        self,
        service: str,
        port: int,
        *to: Any,
        rate_limits: tuple[RateLimit, ...] = (),
        **changes: Any,
    ) -> Path:
        leaf = self._authority.leaf(service)
        local = replace(local_service(service, port, leaf), rate_limits=rate_limits)
        served = snapshot(self._authority, (local,), to)
        document = msgspec.to_builtins(exported(without_keys(served)))
        document["certificates"] = {service: {"chain": f"{service}.pem", "key": f"{service}.key"}}
        file = self._directory / f"{service}.json"
        file.write_text(json.dumps(document | changes))
        return file


async def get(port: int) -> int:
    """The status of one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /any HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return int(answer.split(b" ")[1])


async def test_one_calls_the_other(files: Files) -> None:
    """An exported file with certificates serves; SIGHUP brings what changed; SIGTERM ends it."""
    server = await asyncio.start_server(Scripted(), "127.0.0.1", 0)
    application = server.sockets[0].getsockname()[1]
    async with dataplane(files.write("api", application)) as callee:
        to_api = upstream("api", callee.ports["inbound api"])
        async with dataplane(files.write("web", 1, to_api)) as caller:
            port = caller.ports["outbound web => api"]
            assert await get(port) == 200

            files.write("api", application, default_allow=False)
            callee.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(5):
                while await get(port) != 403:
                    pass

            file = files.write("api", application, default_allow="yes")
            callee.process.send_signal(signal.SIGHUP)
            assert (
                await callee.complains() == f"not reloaded: {file}: default_allow: Expected `bool`"
            )
            assert await get(port) == 403

            for running in (caller, callee):
                running.process.terminate()
                assert await asyncio.wait_for(running.process.wait(), 10) == 0
    server.close()


async def test_workers_share_the_rates_of_an_instance(files: Files) -> None:
    """One connection is with one worker, and gets all of the rate; then nobody gets more."""
    server = await asyncio.start_server(Scripted(), "127.0.0.1", 0)
    application = server.sockets[0].getsockname()[1]
    file = files.write("api", application, rate_limits=(RateLimit("instance", 0.01, 12),))
    async with dataplane(file, workers=3) as callee:
        to_api = upstream("api", callee.ports["inbound api"])
        async with dataplane(files.write("web", 1, to_api)) as caller:
            port = caller.ports["outbound web => api"]
            assert [await get(port) for _ in range(14)] == [200] * 12 + [429] * 2
            assert await asyncio.gather(*(get(port) for _ in range(24))) == [429] * 24
            callee.process.send_signal(signal.SIGHUP)
            assert await get(port) == 429
    server.close()


async def test_a_faulty_file_is_refused(files: Files) -> None:
    file = files.write("api", 1, services=[{"name": "api"}])
    process = await asyncio.create_subprocess_exec(
        FLEETMESH, "dataplane", "--snapshot", str(file), stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert error.decode().startswith(f"{file}: services[0]: Object missing required field `id`")
    assert "Traceback" not in error.decode()


async def test_a_taken_port(files: Files) -> None:
    with listening() as taken:
        entry = {"kind": "inbound", "service": "api", "port": port_of(taken)}
        file = files.write("api", 1, listeners=[entry])
        process = await asyncio.create_subprocess_exec(
            FLEETMESH, "dataplane", "--snapshot", str(file), stderr=asyncio.subprocess.PIPE
        )
        _, error = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 1
        assert f"port {port_of(taken)} of 127.0.0.1: Address already in use" in error.decode()
