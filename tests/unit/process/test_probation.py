"""A release that has served on end is known to be ready."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.unit.edge.test_releases import home  # noqa: F401

from fleetmesh.edge.releases import Home
from fleetmesh.model.release import Fallback, Releases
from fleetmesh.process.probation import serve_out, tell_of_fallback


async def test_it_is_written_down_when_it_has_served(home: Home) -> None:  # noqa: F811
    await asyncio.wait_for(serve_out(home, lambda: True, 0.05), 5)
    assert home.read().ready == ("new",)


async def test_its_time_begins_anew_when_it_does_not_serve(home: Home) -> None:  # noqa: F811
    """Serving now and then is not serving."""
    answers = iter([True, True, False] * 1000)
    running = asyncio.ensure_future(serve_out(home, lambda: next(answers), 0.04))
    await asyncio.sleep(0.3)
    assert not running.done()
    assert home.read().ready == ()
    running.cancel()


async def test_a_full_disk_is_told_and_not_the_end(
    home: Home,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "state").rmdir()
    running = asyncio.ensure_future(serve_out(home, lambda: True, 0.02))
    await asyncio.sleep(0.2)
    assert not running.done()
    assert "cannot be written" in caplog.text
    running.cancel()


def test_a_fall_back_stands_in_the_journal(caplog: pytest.LogCaptureFixture) -> None:
    tell_of_fallback(Releases(running="old"))
    assert not caplog.records
    fallback = Fallback("new", "old", "it did not become ready in time", 1.0)
    tell_of_fallback(Releases(running="old", fallback=fallback))
    record = caplog.records[0]
    assert record.levelno == logging.ERROR
    assert "new was given up, it did not become ready in time" in record.getMessage()
