"""Warnings before something runs out."""

from __future__ import annotations

import pytest
from tests.unit.cli.conftest import healthy

from fleetmesh.cli import headroom
from fleetmesh.cli.findings import Level, of_status
from fleetmesh.edge.host import Dialled, Files, Tuning
from fleetmesh.settings import Settings

SETTINGS = Settings(address="127.0.0.1")
RESERVED = frozenset(headroom.own_ports(SETTINGS, healthy()))
GOOD = Tuning(4096, range(15000, 61000), RESERVED)


@pytest.mark.parametrize(
    ("count", "level"), [(799, Level.OK), (800, Level.WARNING), (950, Level.ERROR)]
)
def test_files_of_the_fullest_worker(count: int, level: Level) -> None:
    found = headroom.files([Files(1, 10, 1000), None, Files(2, count, 1000)])
    assert found.level is level
    assert found.message == f"worker 2 has {count} of 1000 open"


def test_what_only_root_sees_is_skipped() -> None:
    assert headroom.files([None]).level is Level.SKIPPED
    assert headroom.dialled(None).level is Level.SKIPPED


@pytest.mark.parametrize(("most", "level"), [(0, Level.OK), (80, Level.WARNING), (96, Level.ERROR)])
def test_ports_to_one_destination(most: int, level: Level) -> None:
    found = headroom.dialled(Dialled(100, most, "10.0.0.1 port 80"))
    assert (found.level, found.message) == (level, f"{most} of 100 in use to 10.0.0.1 port 80")


def test_a_tuned_host_has_nothing_told() -> None:
    assert list(headroom.tuning(GOOD, SETTINGS, healthy())) == []
    assert list(headroom.tuning(Tuning(), SETTINGS, healthy())) == []


def test_a_short_queue_and_ports_that_others_may_take() -> None:
    loose = Tuning(128, range(21000, 61000), RESERVED - {21000, 21001})
    found = list(headroom.tuning(loose, SETTINGS, healthy()))
    assert [(one.level, one.subject) for one in found] == [
        (Level.WARNING, "listeners"),
        (Level.WARNING, "ephemeral ports"),
    ]
    assert "128" in found[0].message
    assert "21000, 21001 may be taken" in found[1].message


def test_full_queues_since_the_agent_began() -> None:
    found = [one for one in of_status(healthy(overflows=3)) if one.subject == "listeners"]
    assert [one.level for one in found] == [Level.WARNING]
    assert found[0].message.startswith("3 connections found a listener's queue full")
