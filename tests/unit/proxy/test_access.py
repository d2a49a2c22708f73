"""Access records between the path and whoever reads them: bounded on every side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from tests.support.record import record

from fleetmesh.core.table import link
from fleetmesh.model.record import Record
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.proxy.access import MAX_PENDING, PORTION, AccessLog
from fleetmesh.proxy.plane import SWEEP, Plane
from fleetmesh.settings import AccessLogMode, AccessLogSettings, HttpSettings, TcpSettings

RING = AccessLogSettings(AccessLogMode.RING, size=3)
JOURNAL = AccessLogSettings(AccessLogMode.JOURNAL)


def test_the_ring_keeps_the_newest() -> None:
    log = AccessLog(RING, None)
    for status in range(200, 206):
        log.add(record(status=status))
    assert [each.status for each in log.records(9)] == [203, 204, 205]
    assert [each.status for each in log.records(2)] == [204, 205]


def test_what_nobody_writes_is_dropped_and_counted() -> None:
    """Memory stays bounded when more comes than the journal gets."""
    written: list[Record] = []

    def sink(records: Sequence[Record]) -> int:
        written.extend(records[1:])
        return 1  # the journal did not take one of them

    log = AccessLog(JOURNAL, sink)
    for status in range(MAX_PENDING + 7):
        log.add(record(status=status))
    assert log.dropped == 7
    assert log.flush()
    assert [each.status for each in written] == list(range(1, PORTION))
    while log.flush():
        pass
    assert log.dropped == 7 + MAX_PENDING // PORTION
    assert len(written) == MAX_PENDING - MAX_PENDING // PORTION
    assert not log.flush()
    assert log.records(9) == ()


async def test_the_sweep_writes_and_tells_of_what_was_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of it, a portion for each turn of the loop."""
    caplog.set_level(logging.WARNING)
    sizes: list[int] = []

    def sink(records: Sequence[Record]) -> int:
        sizes.append(len(records))
        return 0

    log = AccessLog(JOURNAL, sink)
    table = link(Snapshot("t.consul", "dc1", "host1", (), (), ()), 1, None, 0)
    Plane(asyncio.get_running_loop(), HttpSettings(), TcpSettings(), table, None, log)
    for _ in range(PORTION + 1):
        log.add(record())
    log.dropped = 2
    async with asyncio.timeout(10 * SWEEP):
        while not caplog.messages:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert sizes == [PORTION, 1]
    assert caplog.messages == ["2 access records were dropped"]
