"""maintenance, drain and undrain against an agent that answers what a test says."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace
from tests.unit.cli.conftest import Run, healthy
from tests.unit.cli.fake_agent import FakeAgent

from fleetmesh.cli import hold as verbs
from fleetmesh.cli.findings import Level, of_status
from fleetmesh.model.status import HoldStatus

DRAINING = HoldStatus("draining", "kernel", ("drain",), under_way=2, seconds_left=42.0)


def holding(agent: FakeAgent, hold: HoldStatus | None) -> None:
    """From now on the status shows cart so."""
    (cart,) = healthy().services
    status = healthy(services=(replace(cart, hold=hold),))
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(status))


def test_maintenance_on_and_off(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/hold"] = (200, {"services": ["cart"]})
    agent.answers["POST", "/v1/release"] = (200, {"services": ["cart"]})
    result = run("maintenance", "on", "cart", "--why", "disk")
    assert (result.exit_code, result.stdout) == (0, "cart is in maintenance\n")
    result = run("maintenance", "off", "cart")
    assert (result.exit_code, result.stdout) == (0, "cart: no longer in maintenance\n")
    assert agent.asked == [
        ("POST", "/v1/hold", {"service": "cart", "kind": "maintenance", "why": "disk"}),
        ("POST", "/v1/release", {"service": "cart", "kind": "maintenance"}),
    ]


def test_a_release_of_what_was_not_held_is_a_negative_answer(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/release"] = (200, {"services": []})
    result = run("maintenance", "off", "cart")
    assert (result.exit_code, result.stderr) == (1, "fleetmesh: cart was not in maintenance\n")
    result = run("undrain", "--host")
    assert (result.exit_code, result.stderr) == (1, "fleetmesh: no service was drained\n")


@pytest.mark.parametrize("arguments", [[], ["cart", "--host"]])
@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_a_service_or_the_host(agent: FakeAgent, run: Run, verb: str, arguments: list[str]) -> None:
    result = run(verb, *arguments)
    assert result.exit_code == 2
    assert "name a service, or --host" in result.stderr
    assert agent.asked == []


def test_a_drain_that_is_not_waited_for(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/hold"] = (200, {"services": ["cart", "web"]})
    result = run("drain", "--host", "--within", "5", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "cart, web: draining\n")
    asked = {"service": "", "kind": "drain", "why": "", "within": 5.0}
    assert agent.asked == [("POST", "/v1/hold", asked)]


@pytest.mark.parametrize(
    ("left", "code", "last"),
    [(0, 0, "cart: drained"), (3, 1, "cart: drained, 3 still under way were ended")],
)
def test_a_drain_is_followed_to_its_end(
    agent: FakeAgent,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    left: int,
    code: int,
    last: str,
) -> None:
    agent.answers["POST", "/v1/hold"] = (200, {"services": ["cart"]})
    holding(agent, DRAINING)
    over = replace(DRAINING, phase="maintenance", left=left)
    monkeypatch.setattr(verbs.time, "sleep", lambda _: holding(agent, over))
    result = run("drain", "cart")
    assert result.exit_code == code
    assert result.stdout.splitlines() == ["cart: draining, 2 under way", last]


def test_a_drain_of_which_consul_tells_nobody(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/hold"] = (200, {"services": ["cart"]})
    (cart,) = healthy().services
    over = replace(DRAINING, phase="maintenance", left=0)
    consul = replace(healthy().consul, reachable=False)
    status = healthy(services=(replace(cart, hold=over),), consul=consul)
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(status))
    result = run("drain", "cart")
    assert result.exit_code == 1
    assert result.stderr == "Consul does not answer: callers do not know of it\n"


def test_a_drain_that_somebody_ends_meanwhile(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/hold"] = (200, {"services": ["cart"]})
    result = run("drain", "cart")
    assert (result.exit_code, result.stdout) == (0, "cart: no longer drained\n")


@pytest.mark.parametrize(
    ("hold", "column", "message", "remedy"),
    [
        (
            HoldStatus("maintenance", "disk", ("maintenance",)),
            "registered, maintenance",
            "is in maintenance (disk)",
            "fleetmesh maintenance off cart",
        ),
        (
            DRAINING,
            "registered, draining",
            "drains, 2 under way, 42s left (kernel)",
            "fleetmesh undrain cart",
        ),
        (
            replace(DRAINING, left=0),
            "registered, drained",
            "is drained (kernel)",
            "fleetmesh undrain cart",
        ),
        (
            replace(DRAINING, left=2),
            "registered, drained",
            "is drained, 2 were still under way (kernel)",
            "fleetmesh undrain cart",
        ),
    ],
)
def test_status_says_who_is_held_and_how_to_end_it(
    agent: FakeAgent, run: Run, hold: HoldStatus, column: str, message: str, remedy: str
) -> None:
    holding(agent, hold)
    shown = run("status").stdout
    assert column in shown
    assert f"service cart: {message}" in shown
    (cart,) = healthy().services
    status = healthy(services=(replace(cart, hold=hold),))
    (finding,) = [f for f in of_status(status) if f.level is Level.WARNING]
    assert finding.remedy == remedy


def test_status_says_what_is_adopted(agent: FakeAgent, run: Run) -> None:
    (cart,) = healthy().services
    status = healthy(services=(replace(cart, adopted="cart-tf"),))
    agent.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(status))
    assert "adopted [cart-tf]" in run("status").stdout
