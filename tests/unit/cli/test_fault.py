"""`fleetmesh fault` and `fleetmesh bypass` against an agent that answers what a test says."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.unit.cli.conftest import Run, healthy
from tests.unit.cli.fake_agent import FakeAgent

from fleetmesh.cli import bypass, fault, render
from fleetmesh.cli.findings import Level, of_status
from fleetmesh.model.status import BypassStatus, CaptureStatus, FaultStatus

SHOWN = FaultStatus(
    "f1", "api", ("web",), 5.0, "5 % are delayed", "delay", 90.0, struck=3, by="root", why="tests"
)
BYPASSED = CaptureStatus("bypassed", 5, bypass=BypassStatus(90.0, 1e9, "root (uid 0)", "tests"))


def test_every_option_of_an_injection_is_asked_for(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/faults/inject"] = (200, {"id": "f1", "callers": ["shop", "web"]})
    result = run(
        *("fault", "inject", "api", "--percent", "5", "--delay", "1m30s", "--from", "web"),
        *("-H", "x-user: test", "-H", "x-any", "--for", "20m", "--why", "game day"),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "f1: injected into the requests from shop, web to api\n"
    ((_, _, asked),) = agent.asked
    assert asked == {
        "service": "api",
        "percent": 5.0,
        "delay": 90.0,
        "abort": 0,
        "headers": [["x-user", "test"], ["x-any", None]],
        "source": "web",
        "seconds": 1200.0,
        "why": "game day",
    }
    result = run("fault", "inject", "api", "--percent", "0.5", "--abort", "503", "--json")
    assert json.loads(result.stdout)["id"] == "f1"
    assert agent.asked[-1][2]["seconds"] == 600.0
    assert fault.inject.__doc__


@pytest.mark.parametrize("arguments", [["--delay", "soon"], ["--abort", "503", "--for", "x"]])
def test_durations_that_are_none(agent: FakeAgent, run: Run, arguments: list[str]) -> None:
    result = run("fault", "inject", "api", "--percent", "5", *arguments)
    assert result.exit_code == 2
    assert "must be a duration" in result.stderr
    assert agent.asked == []


def test_the_list(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET", "/v1/faults"] = (200, {"faults": [msgspec.to_builtins(SHOWN)]})
    result = run("fault", "list")
    assert result.stdout == "f1: 5 % are delayed; 3 so far, ends in 1m 30s; root: tests\n"
    assert json.loads(run("fault", "list", "--json").stdout)["faults"][0]["struck"] == 3
    agent.answers["GET", "/v1/faults"] = (200, {"faults": []})
    assert run("fault", "list").stdout == "no fault is injected\n"


def test_clearing(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/faults/clear"] = (200, {"cleared": ["f1", "f2"]})
    assert run("fault", "clear", "--all").stdout == "cleared: f1, f2\n"
    agent.answers["POST", "/v1/faults/clear"] = (200, {"cleared": []})
    result = run("fault", "clear", "f3")
    assert (result.exit_code, result.stderr) == (1, "fleetmesh: there is no fault f3\n")
    assert [asked for _, _, asked in agent.asked] == [{"id": ""}, {"id": "f3"}]
    for arguments in ([], ["f3", "--all"]):
        assert run("fault", "clear", *arguments).exit_code == 2


def test_bypass_on_and_off(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/bypass/on"] = (200, msgspec.to_builtins(BYPASSED))
    result = run("bypass", "on", "--for", "10m", "--why", "tests")
    assert (result.exit_code, result.stdout) == (0, "capture is bypassed for 90 s\n")
    assert agent.asked == [("POST", "/v1/bypass/on", {"seconds": 600.0, "why": "tests"})]
    assert json.loads(run("bypass", "on", "--why", "a", "--json").stdout)["state"] == "bypassed"
    assert run("bypass", "on").exit_code == 2  # without a reason
    for ended, code in ((True, 0), (False, 1)):
        agent.answers["POST", "/v1/bypass/off"] = (200, {"ended": ended})
        assert run("bypass", "off").exit_code == code
        assert json.loads(run("bypass", "off", "--json").stdout) == {"ended": ended}
    assert bypass.on.__doc__


def test_a_refusal_is_told(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/bypass/on"] = (409, {"error": "cart is to stay closed"})
    result = run("bypass", "on", "--why", "tests")
    assert result.exit_code != 0
    assert "cart is to stay closed" in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "subject", "message", "remedy"),
    [
        (
            {"capture": BYPASSED},
            "capture",
            "bypassed for another 1m 30s, by root (uid 0): tests",
            "fleetmesh bypass off",
        ),
        (
            {"faults": (SHOWN,)},
            "fault f1",
            "5 % are delayed, for another 1m 30s, 3 so far; by root: tests",
            "fleetmesh fault clear f1",
        ),
    ],
)
def test_both_are_warned_of_and_stand_at_the_head_of_the_status(
    changes: dict[str, Any], subject: str, message: str, remedy: str
) -> None:
    status = replace(healthy(), **changes)
    (found,) = [one for one in of_status(status) if one.subject == subject]
    assert (found.level, found.message, found.remedy) == (Level.WARNING, message, remedy)
    out = io.StringIO()
    render.status(status, out)
    assert message in out.getvalue()
