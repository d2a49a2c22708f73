"""What is served against what was fetched."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.ca import TRUST_DOMAIN, Authority, spiffe

from fleetmesh.edge.tls import server_context
from fleetmesh.model.snapshot import Leaf, LocalService, Mode, Snapshot
from fleetmesh.model.status import HandshakeStatus
from fleetmesh.model.traffic import Protocol
from fleetmesh.plan.ports import Allocation
from fleetmesh.process import verifying
from fleetmesh.process.verifying import Verifier

AUTHORITY = Authority()
OLD, NEW = AUTHORITY.leaf("api"), AUTHORITY.leaf("api")
PATIENCE = 5.0


def snapshot(leaf: Leaf | None) -> Snapshot:
    service = LocalService(
        "api", "api", "127.0.0.1", 80, Protocol.HTTP, Mode.STRICT, spiffe("api"), leaf=leaf
    )
    return Snapshot(TRUST_DOMAIN, "dc1", "n", (AUTHORITY.root,), (service,), ())


async def until(verifier: Verifier, wrong: bool, before: float = 1e9) -> HandshakeStatus:
    async with asyncio.timeout(PATIENCE):
        while True:
            await asyncio.sleep(0.01)
            found = verifier.handshakes().get("api")
            if found is not None and bool(found.wrong_for) == wrong and found.age < before:
                return found


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(verifying, "INTERVAL", 0.02)
    monkeypatch.setattr(verifying, "WRONG", 0.1)
    workers = SimpleNamespace(workers=(1, 2))
    return SimpleNamespace(snapshot=snapshot(OLD), supervisor=workers, ports=None)


def test_workers_that_serve_another_one_are_found_out(
    front: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def run() -> None:
        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        context = server_context([AUTHORITY.root], OLD)
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        front.ports = Allocation({}, {"api": server.sockets[0].getsockname()[1]})
        verifier = Verifier(front)
        verifier.start()
        well = await until(verifier, wrong=False)
        assert int(well.serial, 16) == int(OLD.serial, 16)
        assert well.life == pytest.approx(OLD.not_after - OLD.not_before, abs=1.0)
        front.snapshot = snapshot(NEW)
        other = await until(verifier, wrong=True)
        assert (int(other.serial, 16), other.error) == (int(OLD.serial, 16), "")
        await asyncio.sleep(0.3)
        server.close()
        failed = await until(verifier, wrong=True)
        while not failed.error:
            failed = await until(verifier, wrong=True)
        assert failed.wrong_for > other.wrong_for
        assert (failed.serial, failed.life) == ("", 0.0)
        front.snapshot = snapshot(None)
        await asyncio.sleep(0.3)
        assert verifier.handshakes() == {}
        await verifier.close()

    asyncio.run(run())
    told = [record.message for record in caplog.records if "do not show" in record.message]
    assert len(told) == 1, "once, however long it lasts"


def test_a_certificate_that_comes_meanwhile_is_not_judged(front: Any) -> None:
    """The handshake was before it."""

    async def run() -> None:
        renewed = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            front.snapshot = replace(front.snapshot, services=snapshot(NEW).services)
            renewed.set()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        front.ports = Allocation({}, {"api": server.sockets[0].getsockname()[1]})
        verifier = Verifier(front)
        verifier.start()
        await renewed.wait()
        await verifier.close()
        server.close()
        assert verifier.handshakes() == {}

    asyncio.run(run())
