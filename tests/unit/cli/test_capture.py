"""`fleetmesh capture` against a fake agent. The kernel is in tests/integration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from tests.unit.cli.conftest import healthy
from tests.unit.cli.fake_agent import FakeAgent
from typer.testing import CliRunner

from fleetmesh.capture.redirect import Inputs, Service, ruleset
from fleetmesh.capture.ruleset import Ruleset
from fleetmesh.capture.switch import Pending, Switch
from fleetmesh.capture.view import View, view
from fleetmesh.cli import capture as verb
from fleetmesh.edge import jobs, netlink
from fleetmesh.edge.admin_client import AgentUnreachableError
from fleetmesh.model.status import CaptureStatus
from fleetmesh.process.capture_files import CaptureFiles

Run = Callable[..., Result]
WEB = Service("web", 8080, 4001, 15100)
INPUTS = Inputs((WEB, Service("cart", 7001, 4002, 15101, stays_closed=True)))
RULES = ruleset(INPUTS)
PACKETS = {chain.name: tuple(range(len(chain.rules))) for chain in RULES.chains}
APPLIED = CaptureStatus("applied", rules=len(RULES))


def answers(agent: FakeAgent, status: CaptureStatus, kernel: Ruleset = RULES) -> None:
    packets = PACKETS if kernel == RULES else {}
    seen = view(status, RULES, kernel, packets)
    agent.answers["GET", "/v1/capture"] = (200, msgspec.to_builtins(seen))
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(healthy(capture=status)))
    for verb_ in ("apply", "remove"):
        agent.answers["POST", f"/v1/capture/{verb_}"] = (200, msgspec.to_builtins(status))


def test_show_tells_that_all_is_as_wanted(agent: FakeAgent, run: Run) -> None:
    answers(agent, APPLIED)
    result = run("capture", "show")
    assert result.exit_code == 0
    assert result.output.startswith("capture is applied\n\nwanted:\ntable inet fleetmesh {\n")
    assert result.output.count("meta skuid 4001 counter redirect to :15100") == 2
    assert result.output.endswith("difference: none\n")


def test_show_with_counters(agent: FakeAgent, run: Run) -> None:
    answers(agent, APPLIED)
    assert 'tcp dport 8080 counter packets 4 redirect to :15006 comment "web"' in (
        run("capture", "show", "--counters").output
    )


def test_show_tells_a_difference_by_exit_code_1(agent: FakeAgent, run: Run) -> None:
    answers(agent, CaptureStatus("unconfirmed", undo_in=42.4), kernel=Ruleset())
    result = run("capture", "show")
    assert result.exit_code == 1
    assert "undone in 42 s unless confirmed" in result.output
    assert "in the kernel:\n(no rules)\n" in result.output
    assert "+table inet fleetmesh {" in result.output


def test_show_json_is_the_agents_answer(agent: FakeAgent, run: Run) -> None:
    answers(agent, APPLIED)
    shown = msgspec.json.decode(run("capture", "show", "--json").output, type=View)
    assert shown == view(APPLIED, RULES, RULES, PACKETS)


def test_show_without_an_agent_reads_the_kernel(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "STATE_DIR", tmp_path)
    monkeypatch.setattr(verb, "RUN_DIR", tmp_path)
    monkeypatch.setattr(netlink, "read", lambda: netlink.Reading(RULES, PACKETS))
    CaptureFiles(tmp_path, tmp_path).save(INPUTS, Switch())
    result = run("capture", "show")
    assert result.exit_code == 3
    assert "capture is stopped" in result.output
    assert "difference: none" in result.output


def test_show_without_an_agent_and_without_rights(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise netlink.NetfilterError(1, "")

    monkeypatch.setattr(netlink, "read", refuse)
    result = run("capture", "show")
    assert result.exit_code == 3
    assert "no such socket" in result.stderr
    assert "CAP_NET_ADMIN is missing" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "body"),
    [([], {"confirm": None}), (["--confirm-within", "5"], {"confirm": 5.0})],
)
def test_apply_asks_the_agent(
    agent: FakeAgent, run: Run, arguments: list[str], body: dict[str, Any]
) -> None:
    answers(agent, CaptureStatus("unconfirmed", rules=14, undo_in=5.0))
    result = run("capture", "apply", *arguments)
    assert result.exit_code == 0
    assert agent.asked == [("POST", "/v1/capture/apply", body)]
    assert result.output == "capture is unconfirmed, 14 rules; undone in 5 s unless confirmed\n"


def test_apply_that_the_kernel_refused_is_an_error(agent: FakeAgent, run: Run) -> None:
    answers(agent, CaptureStatus("failed", rules=3, error="nftables: Operation not supported"))
    result = run("capture", "apply")
    assert result.exit_code == 2
    assert "failed, 3 rules; nftables: Operation not supported" in result.output


def test_a_negative_wait_is_refused(run: Run) -> None:
    assert run("capture", "apply", "--confirm-within", "-1").exit_code == 2


@pytest.mark.parametrize(
    ("confirmed", "state", "says", "code"),
    [
        (True, "applied", "confirmed", 0),
        (False, "applied", "nothing to confirm: capture is applied", 0),
        (False, "disabled", "nothing to confirm: capture is disabled", 0),
        (False, "undone", "nothing to confirm: capture is undone", 1),
        (False, "removed", "nothing to confirm: capture is removed", 1),
    ],
)
def test_confirm(
    agent: FakeAgent, run: Run, confirmed: bool, state: str, says: str, code: int
) -> None:
    answers(agent, CaptureStatus(state))
    agent.answers["POST", "/v1/capture/confirm"] = (200, {"confirmed": confirmed})
    result = run("capture", "confirm")
    assert (result.output, result.exit_code) == (f"{says}\n", code)
    shown = json.loads(run("capture", "confirm", "--json").output)
    assert shown == {"confirmed": confirmed, "state": state}


def test_remove_asks_the_agent(agent: FakeAgent, run: Run) -> None:
    answers(agent, CaptureStatus("removed"))
    assert run("capture", "remove").output == "capture is removed, 0 rules\n"


def test_remove_without_an_agent_removes_the_table(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[bool] = []
    monkeypatch.setattr(netlink, "remove", lambda: removed.append(True))
    assert run("capture", "remove").exit_code == 0
    assert removed == [True]


@pytest.mark.parametrize("what", ["apply", "confirm"])
def test_what_needs_an_agent_says_so(run: Run, what: str) -> None:
    assert isinstance(run("capture", what).exception, AgentUnreachableError)


@pytest.mark.parametrize(
    ("for_good", "arguments", "kept"),
    [
        (False, [], None),
        (True, [], ["cart: agent stopped"]),
        (False, ["--gave-up"], ["cart: agent stopped"]),
    ],
    ids=["restart", "stop", "gave up"],
)
def test_on_stop_keeps_rules_over_a_restart_and_closed_services_closed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    for_good: bool,
    arguments: list[str],
    kept: list[str] | None,
) -> None:
    put: list[Ruleset] = []
    stopped: list[str] = []
    monkeypatch.setattr(jobs, "stopped_for_good", lambda unit: for_good)
    monkeypatch.setattr(jobs, "stop_sockets", lambda unit: not stopped.append(unit))
    monkeypatch.setattr(netlink, "replace", put.append)
    CaptureFiles(tmp_path, tmp_path).save(INPUTS, Switch(confirmed=INPUTS))
    directories = ["--state-dir", str(tmp_path), "--run-dir", str(tmp_path)]
    result = CliRunner().invoke(verb.app, ["on-stop", *arguments, *directories])
    assert result.exit_code == 0
    comments = [
        sorted({r.comment for c in rules.chains for r in c.rules if "stopped" in r.comment})
        for rules in put
    ]
    assert comments == ([] if kept is None else [kept])
    # A unit that gave up is somebody else's to ask about.
    assert stopped == ([verb.UNIT] if for_good else [])


def test_on_stop_lets_go_what_nobody_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[Ruleset] = []
    monkeypatch.setattr(netlink, "replace", put.append)
    CaptureFiles(tmp_path, tmp_path).save(INPUTS, Switch(pending=Pending(INPUTS, 1e12)))
    directories = ["--state-dir", str(tmp_path), "--run-dir", str(tmp_path)]
    CliRunner().invoke(verb.app, ["on-stop", "--gave-up", *directories])
    assert put == [Ruleset()]
