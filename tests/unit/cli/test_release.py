"""`fleetmesh release` on releases in a temporary directory, with a systemctl of our own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from tests.unit.cli.conftest import healthy
from tests.unit.cli.fake_agent import FakeAgent
from tests.unit.edge.test_releases import install
from typer.testing import CliRunner

from fleetmesh.cli import app, release
from fleetmesh.cli.findings import Level, of_status
from fleetmesh.edge.jobs import end_of
from fleetmesh.edge.releases import READY_FILE, Home
from fleetmesh.model.release import Fallback, Releases
from fleetmesh.plan.releases import End


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """old has served and is previous, new is current."""
    path, state = tmp_path / "opt", tmp_path / "state"
    state.mkdir()
    install(path, "old", 1)
    install(path, "new", 2)
    one = Home(path, state)
    one.choose("old")
    one.prove("old")
    one.choose("new")
    agent_file = tmp_path / "agent.yaml"
    agent_file.write_text(f"address: 10.0.0.1\nstate_dir: {state}\n")
    monkeypatch.setattr(release, "DEFAULT_AGENT", agent_file)
    return one


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prints the file `active` for a question about it and `end` for one about an end."""
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        f'case "$*" in *ActiveState*) cat {tmp_path}/active;;\n'
        f"*NRestarts*) cat {tmp_path}/end;; list-jobs*) cat {tmp_path}/jobs;; esac\n"
    )
    program.chmod(0o755)
    (tmp_path / "jobs").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def ended(systemctl: Path, active: int, restarts: int) -> None:
    (systemctl / "end").write_text(
        "ExecMainStartTimestampMonotonic=500\n"
        f"ActiveEnterTimestampMonotonic={active}\nNRestarts={restarts}\n"
    )


def run(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["release", *arguments, "--home", str(home.path)])


def test_releases_are_listed_with_what_is_known_of_them(home: Home) -> None:
    listed = run(home, "list")
    assert listed.exit_code == 0
    assert listed.stdout.splitlines() == [
        "old  falls back to, has served",
        "new  current, has not served yet",
    ]
    assert json.loads(run(home, "list", "--json").stdout)["previous"] == "old"


def test_a_release_is_chosen(home: Home) -> None:
    chosen = run(home, "use", "old", "--no-restart")
    assert (chosen.exit_code, chosen.stdout) == (0, "old is now current\n")
    again = run(home, "use", "old", "--no-restart", "--json")
    assert json.loads(again.stdout) == {"changed": False, "current": "old"}
    wrong = run(home, "use", "older", "--no-restart")
    assert wrong.exit_code == 2
    assert "no release older here, but old, new" in wrong.stderr


@pytest.mark.parametrize(
    ("result", "active", "restarts"), [("exit-code", 400, 2), ("timeout", 400, 0)]
)
def test_a_failing_release_is_given_up_and_it_is_said(
    home: Home,
    systemctl: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: str,
    active: int,
    restarts: int,
) -> None:
    monkeypatch.setenv("SERVICE_RESULT", result)
    ended(systemctl, active, restarts)
    judged = run(home, "judge")
    assert judged.exit_code == 0
    assert judged.stdout.startswith("<2>release new was given up for old: it ")
    found = home.read()
    assert found.current == "old"
    assert found.fallback is not None
    assert found.fallback.failed == "new"
    listed = run(home, "list")
    assert listed.exit_code == 1
    assert "new was given up for old" in listed.stderr
    # Who waits for it hears of it.
    (systemctl / "active").write_text("active")
    waited = run(home, "wait", "new")
    assert waited.exit_code == 2
    assert "new was given up for old" in waited.stderr


def test_a_first_crash_is_left_to_systemd(
    home: Home, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_RESULT", "exit-code")
    ended(systemctl, 400, 0)
    assert run(home, "judge").stdout == ""
    assert home.read().current == "new"


def test_how_a_process_ended(systemctl: Path) -> None:
    ended(systemctl, 900, 4)
    environment = {"SERVICE_RESULT": "signal"}
    assert end_of("u.service", environment) == End("signal", True, 4, False)
    (systemctl / "jobs").write_text(" 1 u.service stop running\n")
    assert end_of("u.service", environment).stopped
    (systemctl / "end").write_text("")
    assert end_of("u.service", environment).stopped


def test_waiting_ends_with_the_release_that_answers(
    home: Home, systemctl: Path, agent: FakeAgent, tmp_path: Path
) -> None:
    (systemctl / "active").write_text("active")
    status = healthy(releases=Releases(running="new", current="new"))
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(status))
    socket = ["--socket", str(tmp_path / "admin.sock")]
    assert run(home, "wait", "new", *socket).stdout == "new serves\n"
    late = run(home, "wait", "old", "--within", "0", *socket)
    assert late.exit_code == 2
    assert "not within 0 s: old serves" in late.stderr
    assert run(home, "use", "new", *socket).exit_code == 0
    assert "restart fleetmesh-agent.service" in (systemctl / "asked").read_text()


def test_waiting_ends_when_the_agent_gave_up(home: Home, systemctl: Path) -> None:
    (systemctl / "active").write_text("failed")
    waited = run(home, "wait", "new")
    assert waited.exit_code == 2
    assert "the agent gave up" in waited.stderr


def test_a_source_tree_names_no_place() -> None:
    listed = CliRunner().invoke(app, ["release", "list"])
    assert listed.exit_code == 2
    assert "--home" in listed.stderr


def test_the_ready_note_is_the_agents(home: Home, tmp_path: Path) -> None:
    assert json.loads((tmp_path / "state" / READY_FILE).read_text()) == ["old"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            Releases("old", "old", "old", fallback=Fallback("new", "old", "it hung", 1.0)),
            "new was given up for old: it hung",
        ),
        (Releases("old", "new"), "old runs, new is to run"),
    ],
)
def test_check_warns(found: Releases, message: str) -> None:
    findings = [one for one in of_status(healthy(releases=found)) if one.subject == "release"]
    assert [(one.level, one.message) for one in findings] == [(Level.WARNING, message)]
    assert findings[0].remedy
    assert not [
        one
        for one in of_status(healthy(releases=Releases("old", "old")))
        if one.subject == "release"
    ]
