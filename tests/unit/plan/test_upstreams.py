"""What Consul has not told yet of an upstream that was served before: nobody is called past the
mesh meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.answers import TRUST, chain, instance
from tests.unit.plan.test_compile import SETTINGS, compiled, observed

from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Protocol, Upstream
from fleetmesh.plan.answers import Root, Roots
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.defaults import Defaults
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.upstreams import upstreams

API, FAR = InstanceQuery("api"), InstanceQuery("api", "dc2")
THERE = "api.default.dc2"
SUBSET = "v2.api.default.dc1"
WANTED = frozenset({"api", THERE, SUBSET})
KNOWN: dict[str, Any] = {"wanted": WANTED, "virtual": {"api": ("248.0.0.1",)}}


def before() -> Snapshot:
    """Where api was served, here and from elsewhere, and a subset of it."""
    (api,) = compiled(observed(instance(), **KNOWN)).snapshot.upstreams
    others = tuple(replace(api, service=key, destinations=()) for key in (THERE, SUBSET))
    snapshot = compiled(observed(instance(), **KNOWN)).snapshot
    return replace(snapshot, upstreams=(api, *others))


def kept(seen: Observed, previous: Snapshot | None) -> dict[str, Upstream]:
    return {one.service: one for one in compiled(seen, previous=previous).snapshot.upstreams}


@pytest.mark.parametrize(
    "untold",
    [{"instances": {}}, {"chains": {}}, {"instances": {}, "chains": {}}, {"resolvers": None}],
)
def test_what_consul_has_not_told_is_as_before(untold: dict[str, Any]) -> None:
    previous = before()
    seen = replace(observed(instance(), **KNOWN), **untold)
    found = kept(seen, previous)
    assert found.keys() == WANTED
    for key in WANTED - ({"api"} if "resolvers" in untold else set()):
        (was,) = (one for one in previous.upstreams if one.service == key)
        assert found[key] == was
    assert "api" not in kept(replace(seen, chains={}), None)


def test_what_consul_says_is_gone_is_gone() -> None:
    previous = before()
    told = observed(instances={API: (), FAR: ()}, chains={}, **KNOWN)
    assert kept(told, previous) == {}
    unlisted = observed(instances={}, catalog=frozenset({"consul"}), **KNOWN)
    assert kept(unlisted, previous).keys() == {THERE}


def test_what_is_not_wanted_any_more_is_let_go() -> None:
    seen = observed(instances={}, **KNOWN | {"wanted": frozenset({SUBSET})})
    assert kept(seen, before()).keys() == {SUBSET}


def test_nothing_is_kept_of_another_trust_domain() -> None:
    seen = observed(instances={}, roots=Roots("other.consul", [Root("ROOT")]), **KNOWN)
    assert kept(seen, before()) == {}


def test_an_address_that_has_another_owner_meanwhile_stays_with_the_first_by_name() -> None:
    """The kept one comes by its destinations like any other."""
    thief = instance("aaa")
    sharing = replace(
        observed(instances={InstanceQuery("aaa"): (thief,)}, **KNOWN),
        catalog=frozenset({"aaa", "api"}),
        chains={"aaa": chain("aaa")},
    )
    found = upstreams(sharing, Defaults((), (), (), "", SETTINGS.upstream), TRUST, before())
    one, other = found[0][:2]
    assert (one.service, other.service) == ("aaa", "api")
    assert set(one.destinations).isdisjoint(other.destinations)
    assert [problem.path for problem in found[1]] == ["catalog: api"]


def test_a_local_service_stays_what_it_was_while_its_chain_is_not_known() -> None:
    """As tcp none of its intentions about paths could be honoured."""
    previous = compiled(observed(instance())).snapshot
    assert previous.services[0].protocol is Protocol.HTTP
    untold = observed(instance(), chains={"api": chain("api")})
    assert compiled(untold).snapshot.services[0].protocol is Protocol.TCP
    assert compiled(untold, previous=previous).snapshot.services[0].protocol is Protocol.HTTP
