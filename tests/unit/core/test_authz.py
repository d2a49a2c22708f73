"""Intentions of one destination, in Consul's order of precedence."""

from __future__ import annotations

import pytest

from fleetmesh.core.authz import Authorizer
from fleetmesh.model.identity import Action, Intention


def intention(source: str, destination: str, action: Action, precedence: int) -> Intention:
    return Intention(source, destination, action, precedence)


EXACT = intention("web", "api", Action.DENY, 9)
ANY_SOURCE = intention("*", "api", Action.ALLOW, 8)
ANY_DESTINATION = intention("cart", "*", Action.DENY, 6)
ANY = intention("*", "*", Action.DENY, 5)


@pytest.mark.parametrize("default", [True, False])
def test_without_intentions_the_default_decides(default: bool) -> None:
    verdict = Authorizer((), default).decide("web")
    assert (verdict.allowed, verdict.intention) == (default, None)
    assert str(verdict) == f"default policy: {'allow' if default else 'deny'}"


def test_the_first_match_decides() -> None:
    authorizer = Authorizer((EXACT, ANY_SOURCE, ANY_DESTINATION, ANY), False)
    assert authorizer.decide("web").intention is EXACT
    assert authorizer.decide("cart").intention is ANY_SOURCE
    assert authorizer.decide("other").intention is ANY_SOURCE


def test_a_wildcard_destination_counts_before_a_wildcard_source() -> None:
    authorizer = Authorizer((ANY_DESTINATION, ANY), True)
    assert authorizer.decide("cart").intention is ANY_DESTINATION
    assert authorizer.decide("web").intention is ANY
    assert str(authorizer.decide("web")) == "deny * => *"


def test_of_two_for_the_same_source_the_higher_precedence_wins() -> None:
    lower = intention("web", "*", Action.ALLOW, 6)
    assert not Authorizer((EXACT, lower), True).decide("web").allowed
