"""The short form of `make chaos`, on this suite's own hosts and two more: docs/chaos.md."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.chaos.__main__ import RATE
from tests.chaos.faults import SHORT
from tests.chaos.report import cells
from tests.chaos.restarts import run as restart
from tests.chaos.run import plan, run, widened
from tests.support.evidence import Evidence
from tests.support.fleet import Fleet

SEED = 1


@pytest.fixture(scope="module")
def wide(fleet: Fleet) -> Iterator[Fleet]:
    if os.environ.get("FLEETMESH_LAB_ACL") == "1":
        pytest.skip("two hosts come and go here, and their tokens would be another matter")
    with widened(fleet, whole=False):
        yield fleet


def test_faults_stay_within_their_targets(wide: Fleet, evidence: Evidence) -> None:
    rows = run(wide, plan(SEED, SHORT), RATE, lambda row: evidence("  ".join(cells(row))))
    assert [row.fault for row in rows if row.missed] == [], [
        line for row in rows if row.missed for line in (*row.missed, *row.failures)
    ]


def test_restarts_and_upgrades_lose_nothing(wide: Fleet, evidence: Evidence) -> None:
    """Caller and callee, restart and another release each, under load and with long streams."""
    account = restart(wide, 4, RATE / 2, requests=600)
    evidence(account.text())
    assert account.failed == 0, account.text()
    assert account.crossed > 0
