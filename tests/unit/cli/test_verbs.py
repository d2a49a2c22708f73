"""The command as a shell sees it: messages, exit codes, help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_agent import FakeAgent
from typer.testing import CliRunner

from fleetmesh import __version__
from fleetmesh.cli import app

VERBS = (
    *("agent", "status", "requests", "check", "capture", "acl", "validate"),
    *("maintenance", "drain", "undrain", "reload", "release", "version"),
)


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The console script's main(), in a process of its own."""
    command = [sys.executable, "-c", "from fleetmesh.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_version() -> None:
    assert shell("version").stdout.startswith(f"fleetmesh {__version__} (Python ")
    assert shell("--version").stdout == shell("version").stdout
    assert json.loads(shell("version", "--json").stdout)["version"] == __version__


def test_help_names_every_verb_and_the_exit_codes() -> None:
    shown = shell("-h").stdout
    for verb in VERBS:
        assert f"\n  {verb} " in shown
    assert "Exit codes:" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["status", "--socket", "/nonexistent/admin.sock"],
            3,
            "fleetmesh: no agent answers: /nonexistent/admin.sock: no such socket",
        ),
        (
            ["validate"],
            2,
            "fleetmesh: name a file, or --agent, --services or --dir; see fleetmesh validate -h",
        ),
        (["validate", "/nonexistent.yaml"], 2, "/nonexistent.yaml: does not exist"),
    ],
)
def test_errors_are_sentences(arguments: list[str], code: int, message: str) -> None:
    done = shell(*arguments)
    assert (done.returncode, done.stderr, done.stdout) == (code, message + "\n", "")


def test_a_file_as_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("")
    done = shell("status", "--socket", str(path))
    assert (done.returncode, done.stderr) == (
        3,
        f"fleetmesh: no agent answers: {path}: nobody listens\n",
    )


def test_a_reader_that_leaves_is_no_error() -> None:
    program = f"{sys.executable} -c 'from fleetmesh.cli import main; main()'"
    command = f"{program} check --socket /nonexistent/admin.sock | (exec 0<&-)"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_an_agent_that_refuses(agent: FakeAgent, run: Run) -> None:
    """A 5xx is told in the agent's own words."""
    agent.answers["GET", "/v1/status"] = (500, {"error": "the disk is full"})
    result = run("status")
    assert type(result.exception).__name__ == "AgentRefusedError"
    assert str(result.exception) == "the disk is full"


@pytest.mark.parametrize("answer", ["<html>", {"version": 1}])
def test_somebody_else_answers(agent: FakeAgent, run: Run, answer: object) -> None:
    agent.answers["GET", "/v1/status"] = (200, answer)
    assert type(run("status").exception).__name__ == "AgentUnreachableError"


def test_reload_that_is_accepted(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/reload"] = (200, {"problems": []})
    result = run("reload")
    assert (result.exit_code, result.stdout) == (0, "reloaded\n")
    assert agent.asked == [("POST", "/v1/reload", {})]


def test_reload_hands_a_token_over(agent: FakeAgent, run: Run, tmp_path: Path) -> None:
    """What holds none is told before the agent is asked, and no message shows it."""
    agent.answers["POST", "/v1/reload"] = (200, {"problems": []})
    file = tmp_path / "consul.token"
    file.write_text("secret\n")
    assert run("reload", "--token-file", str(file)).exit_code == 0
    file.write_text("two secrets\n")
    result = run("reload", "--token-file", str(file))
    assert result.exit_code == 2
    assert f"{file} holds no token" in result.stderr
    assert "secrets" not in result.stderr + result.stdout
    assert agent.asked == [("POST", "/v1/reload", {"token": "secret"})]


def test_reload_that_is_refused(agent: FakeAgent, run: Run) -> None:
    """Every problem on a line of its own, exit code 2."""
    problem = {
        "path": "/etc/fleetmesh/agent.yaml:2: workerz",
        "rule": "is not known here",
        "remedy": 'Did you mean "workers"?',
    }
    agent.answers["POST", "/v1/reload"] = (400, {"problems": [problem]})
    result = run("reload")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        '/etc/fleetmesh/agent.yaml:2: workerz: is not known here. Did you mean "workers"?',
        "fleetmesh: the settings are refused, the old ones stay in force",
    ]


def test_acl_policy_is_printed_for_the_services_of_this_host(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("address: 10.0.0.1\n")
    services = tmp_path / "services.d"
    services.mkdir()
    (services / "web.yaml").write_text("name: web\nport: 8080\n")
    where = ["--agent", str(tmp_path / "agent.yaml"), "--services", str(services)]
    shown = CliRunner().invoke(app, ["acl", "policy", *where])
    assert shown.exit_code == 0
    assert 'service "web-sidecar-proxy" { policy = "write" }' in shown.output
    named = CliRunner().invoke(app, ["acl", "policy", "--service", "cart"])
    assert (named.exit_code, 'service "cart" {' in named.output) == (0, True)
    (tmp_path / "agent.yaml").write_text("address: nowhere\n")
    assert CliRunner().invoke(app, ["acl", "policy", *where]).exit_code == 2
