"""One mesh for the tests of a module: two workers, the scripted application, short timeouts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.app import Scripted
from tests.support.mesh import Mesh, mesh

from fleetmesh.settings import HttpSettings, WorkerSettings

SETTINGS = WorkerSettings(
    http=HttpSettings(
        head_timeout=0.5,
        idle_timeout=30.0,
        request_timeout=2.0,
        max_head_bytes=8192,
        max_target_bytes=2048,
        max_headers=40,
    )
)


@pytest.fixture(scope="module")
def app() -> Scripted:
    return Scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meshed(app: Scripted) -> AsyncIterator[Mesh]:
    async with mesh(app, settings=SETTINGS) as running:
        yield running
