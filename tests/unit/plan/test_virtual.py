"""Virtual addresses: derived, agreed, chosen."""

from __future__ import annotations

import ipaddress
from itertools import islice

import pytest

from fleetmesh.model.traffic import VIRTUAL4, VIRTUAL6
from fleetmesh.plan.answers import Instance, Node, ServiceInstance, TaggedAddress
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.virtual import PROBES, agree, assigned, both, candidates, choose, first_of

API, WEB = list(candidates("api")), list(candidates("web"))


def test_the_same_name_gives_the_same_addresses_everywhere() -> None:
    assert API[0] == "248.73.140.93"
    assert len(set(API)) == PROBES
    assert all(ipaddress.ip_address(a) in ipaddress.ip_network("248.0.0.0/6") for a in API)
    firsts = {next(candidates(f"service-{number}")) for number in range(2000)}
    assert len(firsts) > 1995


def test_both_families_follow_from_one_address() -> None:
    four, six = both("240.0.0.7")
    assert (four, six) == ("240.0.0.7", "fd4f:1ee7:7e5f:240::f000:7")
    assert ipaddress.ip_address(four) in ipaddress.ip_network(VIRTUAL4)
    assert ipaddress.ip_address(six) in ipaddress.ip_network(VIRTUAL6)


def test_who_holds_an_address_keeps_it_and_who_has_none_claims_the_first() -> None:
    agreement = agree(["web", "api"], {API[3]: "api"})
    assert agreement.held == {"api": API[3]}
    assert agreement.claims == ((WEB[0], "web"),)


def test_a_taken_address_leads_to_the_next() -> None:
    assert agree(["api"], {API[0]: "other", API[1]: "another"}).claims == ((API[2], "api"),)


def test_hosts_that_claim_in_any_order_end_alike() -> None:
    """A key is created once; who comes too late reads it and goes on."""
    keys: dict[str, str] = {API[0]: "web"}  # a collision
    seen = [dict(keys), {}]
    for view in seen * PROBES:
        for address, service in agree(["api", "web"], view).claims:
            keys.setdefault(address, service)
        view.update(keys)
    assert [agree(["api", "web"], view).held for view in seen] == [
        {"api": API[1], "web": WEB[0]} for _ in seen
    ]


def test_a_service_without_a_free_address_has_none() -> None:
    agreement = agree(["api"], dict.fromkeys(API, "other"))
    assert (agreement.held, agreement.claims) == ({}, ())


@pytest.mark.parametrize(
    ("given", "holders", "before", "agreeing", "address"),
    [
        ({"api": "240.0.0.1"}, {API[0]: "api"}, {"api": API[2]}, True, "240.0.0.1"),
        ({}, {API[1]: "api"}, {"api": API[2]}, True, API[1]),
        ({}, {}, {"api": API[2]}, True, API[2]),
        ({}, {API[2]: "web"}, {"api": API[2]}, False, API[0]),
        ({}, {}, {}, True, None),
        ({}, {}, {}, False, API[0]),
        ({}, {API[0]: "gone"}, {}, False, API[1]),
    ],
    ids=["consul", "kv", "before", "before is another's", "not yet", "derived", "next"],
)
def test_the_best_known_address_is_chosen(
    given: dict[str, str],
    holders: dict[str, str],
    before: dict[str, str],
    agreeing: bool,
    address: str | None,
) -> None:
    chosen = choose(["api"], given, holders, before, agreeing)
    assert chosen == ({} if address is None else {"api": address})


def test_no_two_services_get_one_address() -> None:
    chosen = choose(["api", "web"], {}, {}, {"web": API[0], "api": API[0]}, agreeing=False)
    assert len(set(chosen.values())) == 2


def instance(address: str) -> Instance:
    tagged = {"consul-virtual": TaggedAddress(address, 20000)}
    return Instance(Node("n"), ServiceInstance("a-1", "api", tagged_addresses=tagged))


@pytest.mark.parametrize(
    ("addresses", "found"),
    [(["240.0.0.3"], "240.0.0.3"), (["", "240.0.0.4"], "240.0.0.4"), (["10.0.0.1"], None)],
)
def test_consuls_own_addresses_are_found(addresses: list[str], found: str | None) -> None:
    observed = Observed(
        instances={
            InstanceQuery("api"): tuple(map(instance, addresses)),
            InstanceQuery("api", filter="x"): (instance("240.0.0.9"),),
        }
    )
    assert assigned(observed) == ({} if found is None else {"api": found})


def test_probing_is_lazy() -> None:
    assert list(islice(candidates("api"), 2)) == API[:2]


@pytest.mark.parametrize(
    ("address", "first"),
    [
        ("248.1.2.3", "248.1.2.3"),
        (both("248.1.2.3")[1], "248.1.2.3"),
        ("10.0.0.1", None),
        ("fd00::f801:203", None),
        ("api", None),
    ],
)
def test_a_pair_is_known_by_either(address: str, first: str | None) -> None:
    assert first_of(address) == first
