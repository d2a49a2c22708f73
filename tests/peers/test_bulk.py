"""Very large bodies, through workers whose memory does not grow with them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from tests.peers.programs.content import Meter, endless
from tests.peers.servers import script
from tests.support.mesh import Mesh, mesh_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
SIZE = int(os.environ.get("FLEETMESH_TEST_BULK_MIB", "2048")) * MIB
"""`make test-fast` has less time."""
WARM_UP = 64 * MIB
FLAT = 20 * MIB
SAMPLE = 0.1  # seconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    with script("bulk_server.py", tmp_path_factory.mktemp("bulk")) as port:
        async with mesh_to(port) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: Mesh) -> AsyncIterator[aiohttp.ClientSession]:
    base = f"http://127.0.0.1:{server.outbound_port}"
    async with aiohttp.ClientSession(base, read_bufsize=256 * 1024) as session:
        yield session


@dataclass(frozen=True)
class Transfer:
    """`late`: the receiver begins to read so many seconds after the sender began to send."""

    size: int
    chunked: bool
    late: float = 0.0

    async def upload(self, client: aiohttp.ClientSession) -> None:
        async def content() -> AsyncIterator[bytes]:
            for piece in endless(self.size):
                yield piece

        fields = {} if self.chunked else {"Content-Length": str(self.size)}
        late = {"late": str(self.late)}
        async with client.post("/", data=content(), headers=fields, params=late) as answer:
            assert await answer.json() == {"size": self.size, "good": True}

    async def download(self, client: aiohttp.ClientSession) -> None:
        meter = Meter()
        how = {"chunked": ""} if self.chunked else {}
        async with client.get(f"/{self.size}", params=how) as answer:
            assert ("Content-Length" in answer.headers) is not self.chunked
            await asyncio.sleep(self.late)
            async for piece in answer.content.iter_any():
                meter.take(piece)
        assert (meter.size, meter.good) == (self.size, True)


def memory(mesh: Mesh) -> dict[str, int]:
    """Each worker's own memory, in bytes (PSS: its share of what processes share)."""
    found = {}
    for name, worker in (("caller", mesh.caller), ("callee", mesh.callee)):
        rollup = Path(f"/proc/{worker.process.pid}/smaps_rollup").read_text()
        found[name] = int(rollup.partition("\nPss:")[2].split()[0]) * 1024
    return found


async def highest(mesh: Mesh, work: Awaitable[None]) -> dict[str, int]:
    """What `memory` was at most while `work` went on."""
    task = asyncio.ensure_future(work)
    peak = memory(mesh)
    while not task.done():
        await asyncio.wait([task], timeout=SAMPLE)
        peak = {name: max(size, peak[name]) for name, size in memory(mesh).items()}
    await task
    return peak


@pytest.mark.parametrize("direction", [Transfer.upload, Transfer.download])
@pytest.mark.parametrize(
    "transfer",
    [
        pytest.param(Transfer(SIZE, chunked=False), id="length"),
        pytest.param(Transfer(SIZE // 8, chunked=True), id="chunked"),
        pytest.param(Transfer(SIZE // 16, chunked=False, late=1.0), id="length-late"),
        pytest.param(Transfer(SIZE // 16, chunked=True, late=1.0), id="chunked-late"),
    ],
)
async def test_memory_stays_flat(
    transfer: Transfer,
    direction: Callable[[Transfer, aiohttp.ClientSession], Awaitable[None]],
    server: Mesh,
    client: aiohttp.ClientSession,
) -> None:
    """Not more than 20 MB above where it was after a first transfer of the kind, whatever the
    size and however slow the receiver."""
    await direction(replace(transfer, size=WARM_UP, late=0.0), client)
    level = memory(server)
    peak = await highest(server, direction(transfer, client))
    grown = {name: peak[name] - level[name] for name in level}
    print(f"before, bytes: {level}; grown at most: {grown}")
    assert max(grown.values()) < FLAT, grown
