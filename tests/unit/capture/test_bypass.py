"""What stands against a bypass, and what it leaves of the rules."""

from __future__ import annotations

from msgspec.structs import replace

from fleetmesh.capture import switch
from fleetmesh.capture.bypass import closed, objection, suspended
from fleetmesh.capture.redirect import Inputs, Service, ruleset
from fleetmesh.capture.redirect import closed as rules_when_stopped
from fleetmesh.capture.ruleset import Kind, Ruleset
from fleetmesh.capture.switch import Switch

OPEN = Inputs((Service("web", 8080, 4001, 15100),), dns_port=15053)
MIXED = replace(OPEN, services=(*OPEN.services, Service("cart", 7001, stays_closed=True)))


def test_what_stands_against_it() -> None:
    confirmed = Switch(confirmed=OPEN)
    assert objection(confirmed, OPEN) is None
    told = {
        "nothing is captured": (confirmed, None),
        "cart is to stay closed (on_stop: closed)": (confirmed, MIXED),
        "capture is removed already": (switch.remove(), OPEN),
        "the rules are not confirmed yet": (switch.want(Switch(), OPEN, 0.0, 60.0)[0], OPEN),
    }
    for rule, (state, wanted) in told.items():
        problem = objection(state, wanted)
        assert problem is not None
        assert problem.rule == rule
    assert objection(confirmed, Inputs()) == objection(confirmed, None)
    assert closed(MIXED) == ("cart",)


def test_the_nat_chains_stay_and_redirect_nothing() -> None:
    before, during = ruleset(OPEN), ruleset(suspended(OPEN))
    assert [(one.name, one.kind) for one in during.chains] == [
        (one.name, one.kind) for one in before.chains
    ]
    for old, new in zip(before.chains, during.chains, strict=True):
        assert new.rules == (() if new.kind is Kind.NAT else old.rules)
    assert rules_when_stopped(suspended(OPEN)) == Ruleset()
