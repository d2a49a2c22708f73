"""Settings → rules, held against golden files in nft's language.

`python -m tests.unit.capture.test_redirect` writes the files anew; read the diff before you commit
it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fleetmesh.capture import METHODS
from fleetmesh.capture.redirect import Inputs, Service, closed, inputs, ruleset
from fleetmesh.capture.ruleset import Port, Redirect, Ruleset, User, text
from fleetmesh.settings import CaptureSettings, OnStop, Ports, ServiceSettings, Settings

GOLDEN = Path(__file__).with_name("golden")

WEB = Service("web", 8080, uid=4001, outbound_port=15100)
CASES = {
    "one_service": Inputs((WEB,), agent_uid=990),
    "two_services_one_host": Inputs(
        (
            Service("cart", 7001, uid=4002, outbound_port=15101, stays_closed=True),
            Service("orders", 7002, uid=4003, outbound_port=15102),
        ),
        agent_uid=990,
    ),
    "only_called": Inputs((Service("ledger", 9000, stays_closed=True),), plain_port=16006),
    "exclusions": Inputs(
        (WEB, Service("admin", 8081), Service("shell", 2222)),
        agent_uid=990,
        exclude_ports=(53, 5432),
        exclude_cidrs=("10.0.0.0/8", "192.168.7.9/20", "fd00::/61", "2001:db8::7"),
        exclude_inbound_ports=(8081,),
        ssh_ports=(22, 2222),
    ),
    "names": Inputs(
        (WEB, Service("ledger", 9000)),
        agent_uid=990,
        exclude_cidrs=("10.0.0.0/8",),
        dns_port=15053,
    ),
    "nothing": Inputs(),
}


def rendered(given: Inputs) -> str:
    return f"# running\n{text(ruleset(given))}# stopped\n{text(closed(given))}"


@pytest.mark.parametrize("name", CASES)
def test_rules_are_the_golden_ones(name: str) -> None:
    assert rendered(CASES[name]) == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.parametrize(
    "kept", [{"exclude_ports": (53,)}, {"ssh_ports": (53,)}, {"dns_port": None}], ids=str
)
def test_dns_can_be_left_alone(kept: dict[str, object]) -> None:
    given = Inputs((WEB,), agent_uid=990, dns_port=15053)
    assert ":15053" in text(ruleset(given))
    assert ":15053" not in text(ruleset(msgspec.structs.replace(given, **kept)))


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.nft")} == set(CASES)


def test_settings_become_inputs() -> None:
    settings = Settings(
        address="192.0.2.1",
        on_stop=OnStop.CLOSED,
        ports=Ports(plain=16006),
        capture=CaptureSettings(
            exclude_ports=(53,),
            exclude_cidrs=("10.0.0.0/8",),
            exclude_inbound_ports=(8081,),
            ssh_ports=(2222,),
        ),
        services=(
            ServiceSettings("web", 8080, user="web", on_stop=OnStop.OPEN),
            ServiceSettings("ledger", 9000),
        ),
    )
    assert inputs(settings, {"web": 15100}, {"web": 4001}, agent_uid=990) == Inputs(
        services=(WEB, Service("ledger", 9000, stays_closed=True)),
        plain_port=16006,
        agent_uid=990,
        exclude_ports=(53,),
        exclude_cidrs=("10.0.0.0/8",),
        exclude_inbound_ports=(8081,),
        ssh_ports=(2222,),
    )


def test_disabled_capture_is_no_rule() -> None:
    settings = Settings(
        address="192.0.2.1",
        capture=CaptureSettings(enabled=False),
        services=(ServiceSettings("web", 8080, user="web"),),
    )
    assert ruleset(inputs(settings, {"web": 15100}, {"web": 4001}, 990)) == Ruleset()


def test_a_service_whose_user_is_unknown_is_only_called() -> None:
    settings = Settings(
        address="192.0.2.1", services=(ServiceSettings("web", 8080, user="nobody-yet"),)
    )
    rules = ruleset(inputs(settings, {"web": 15100}, {}, 990))
    actions = [rule.action for chain in rules.chains for rule in chain.rules]
    assert Redirect(15100) not in actions
    assert Redirect(15006) in actions


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_every_method_exempts_ssh_the_agent_and_established_sessions_first(
    method: str, name: str
) -> None:
    """By construction: no rule that captures or refuses stands before those that let go."""
    given = CASES[name]
    for rules in (METHODS[method].ruleset(given), METHODS[method].closed(given)):
        for chain in rules.chains:
            taking = [n for n, rule in enumerate(chain.rules) if str(rule.action) != "accept"]
            first = taking[0] if taking else len(chain.rules)
            assert chain.rules[0].comment == "established sessions"
            assert str(chain.rules[0].matches[0]).endswith("!= syn")
            if chain.name == "output":
                let_go = {match for rule in chain.rules[:first] for match in rule.matches}
                assert {Port(port) for port in given.ssh_ports} <= let_go
                assert given.agent_uid is None or User(given.agent_uid) in let_go
            for rule in chain.rules[first:]:
                assert not {Port(port) for port in given.ssh_ports} & set(rule.matches)


if __name__ == "__main__":
    for name, given in CASES.items():
        (GOLDEN / f"{name}.nft").write_text(rendered(given))
