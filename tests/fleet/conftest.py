"""The fleet: a lab of real hosts with the mesh rolled out, for the whole session.

FLEETMESH_TEST_LAB=<name> uses a lab that is up and leaves it up, for working on these tests.
Files run in the order of their names: those that take the fleet apart come last.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.support.evidence import LINES, Evidence
from tests.support.fleet import ROOT, Fleet

LOGS = ROOT / "build/fleet"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fleet)
            # Whichever test runs first waits for the lab and the rollout.
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    given = os.environ.get("FLEETMESH_TEST_LAB")
    if given:
        fleet = Fleet(given)
        yield fleet
        fleet.end_sessions()
        return
    # The name that `make test` takes down when it is interrupted.
    name = "test-" + hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
    fleet = Fleet(os.environ.get("TEST_LAB", name))
    try:
        for target in ("lab-up", "rollout"):
            began = time.monotonic()
            fleet.make(target, log=LOGS / f"{target}.log")
            LINES.append(f"make {target}: {time.monotonic() - began:.0f} s")
        yield fleet
    finally:
        fleet.end_sessions()
        fleet.make("lab-down", log=LOGS / "lab-down.log")


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "fleet" in request.fixturenames:
        request.getfixturevalue("fleet").end_sessions()


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    return Evidence(request.node.name.removeprefix("test_"))


@pytest.fixture(scope="session")
def logs() -> Path:
    return LOGS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.when == "call" and report.failed and isinstance(fleet, Fleet):
        for host in fleet.mesh:
            try:
                tail = host.run(
                    "fleetmesh status 2>&1 | head -60; "
                    "journalctl -u fleetmesh-agent -n 60 --no-pager -o short-precise",
                    check=False,
                    timeout=20,
                ).stdout
            except AssertionError as error:
                tail = str(error)
            report.sections.append((f"{host.name}: status and journal", tail))
    return report
