"""Is systemd about to start the agent again?"""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetmesh.edge.jobs import job_of, stop_sockets, stopped_for_good

UNIT = "fleetmesh-agent.service"
LISTED = """\
 117 nginx.service           restart start running
 118 fleetmesh-agent.service {job}   running
 119 fleetmesh-admin.socket  stop    waiting
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that prints what the file `jobs` says and exits with what `status` says."""
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        f'[ "$1" = list-jobs ] && cat {tmp_path}/jobs\n'
        f'[ "$1" = show ] && echo fleetmesh-agent.socket fleetmesh-admin.socket\n'
        f"exit $(cat {tmp_path}/status)\n"
    )
    program.chmod(0o755)
    (tmp_path / "status").write_text("0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_job_is_found_by_its_unit() -> None:
    assert job_of(UNIT, LISTED.format(job="stop")) == "stop"
    assert job_of("agent.service", LISTED.format(job="stop")) is None
    assert job_of(UNIT, "") is None
    assert job_of(UNIT, "No jobs running.\n") is None


@pytest.mark.parametrize(("job", "good"), [("stop", True), ("restart", False), ("start", False)])
def test_only_a_stop_is_for_good(systemctl: Path, job: str, good: bool) -> None:
    (systemctl / "jobs").write_text(LISTED.format(job=job))
    assert stopped_for_good(UNIT) is good


def test_a_unit_that_died_is_started_again(systemctl: Path) -> None:
    (systemctl / "jobs").write_text("")
    assert not stopped_for_good(UNIT)


@pytest.mark.parametrize(
    ("result", "good"), [("success", True), ("watchdog", False), ("signal", False)]
)
def test_without_systemctl_the_result_decides(
    systemctl: Path, monkeypatch: pytest.MonkeyPatch, result: str, good: bool
) -> None:
    (systemctl / "jobs").write_text("")
    (systemctl / "status").write_text("1")
    monkeypatch.setenv("SERVICE_RESULT", result)
    assert stopped_for_good(UNIT) is good


def test_sockets_are_stopped_without_waiting(systemctl: Path) -> None:
    """The unit waits for ExecStopPost=, and sockets for the unit: waiting would never end."""
    assert stop_sockets(UNIT)
    assert (systemctl / "asked").read_text().splitlines() == [
        f"show --property=TriggeredBy --value {UNIT}",
        "stop --no-block fleetmesh-agent.socket fleetmesh-admin.socket",
    ]


def test_sockets_that_cannot_be_stopped_are_told(systemctl: Path) -> None:
    (systemctl / "status").write_text("1")
    assert not stop_sockets(UNIT)
