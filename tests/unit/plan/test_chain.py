from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.support.answers import chain

from fleetmesh.model.traffic import Balancing, HashPolicy
from fleetmesh.plan.chain import InstanceQuery, Resolution, queries, resolutions
from fleetmesh.plan.chain_answer import Chain, ChainAnswer


def resolved(resolver: dict[str, Any], *spares: dict[str, Any], **node: Any) -> Chain:
    """A chain of one resolver to `t`; `spares` are more targets."""
    targets = {one["ID"]: {"Service": "api", "Datacenter": "dc1"} | one for one in spares}
    answer = {
        "ServiceName": "api",
        "Datacenter": "dc1",
        "StartNode": "r",
        "Nodes": {"r": {"Type": "resolver", "Resolver": {"Target": "t"} | resolver} | node},
        "Targets": {"t": {"ID": "t", "Service": "api", "Datacenter": "dc1"}} | targets,
    }
    return msgspec.convert({"Chain": answer}, ChainAnswer).chain


def only(one: Chain) -> Resolution:
    found, problems = resolutions(one, "dc1")
    assert problems == []
    return found["t"]


@pytest.mark.parametrize(
    ("mode", "query", "wide"),
    [
        ("", InstanceQuery("api", "dc2", "Service.Meta.v == 2"), True),
        ("none", InstanceQuery("api", "dc2", "Service.Meta.v == 2"), True),
        ("local", InstanceQuery("mesh-gateway", gateway=True), False),
        ("remote", InstanceQuery("mesh-gateway", "dc2", gateway=True), True),
    ],
)
def test_another_datacenter_is_reached_as_its_mesh_gateway_mode_says(
    mode: str, query: InstanceQuery, wide: bool
) -> None:
    """A gateway stands for all instances: neither filter nor OnlyPassing is its own."""
    found = only(
        chain(
            "api",
            Datacenter="dc2",
            MeshGateway={"Mode": mode},
            Subset={"Filter": "Service.Meta.v == 2", "OnlyPassing": True},
        )
    )
    assert (found.query, found.wide, found.datacenter) == (query, wide, "dc2")
    assert found.only_passing is not query.gateway
    assert (found.service, found.sni) == ("api", "sni")


def test_no_gateway_within_a_datacenter_or_to_what_is_external() -> None:
    within = only(chain("api", MeshGateway={"Mode": "local"}))
    assert within.query == InstanceQuery("api")
    outside = chain("api", Datacenter="dc2", External=True, MeshGateway={"Mode": "local"})
    assert only(outside).query == InstanceQuery("api", "dc2")


def test_spares_are_asked_for_too() -> None:
    spare = {"ID": "s", "Datacenter": "dc2", "ConnectTimeout": "7s"}
    one = resolved({"ConnectTimeout": "2s", "Failover": {"Targets": ["s"]}}, spare)
    found, problems = resolutions(one, "dc1")
    assert problems == []
    assert found["t"].failover == ("s",)
    assert (found["t"].connect_timeout, found["s"].connect_timeout) == (2.0, 7.0)
    assert queries(one, "dc1") == {InstanceQuery("api"), InstanceQuery("api", "dc2")}


@pytest.mark.parametrize(
    "foreign", [{"Peer": "other"}, {"Namespace": "team"}, {"Partition": "west"}]
)
def test_target_of_a_foreign_identity_is_left_out_and_told(foreign: dict[str, str]) -> None:
    found, problems = resolutions(chain("api", **foreign), "dc1")
    assert found == {}
    assert [problem.path for problem in problems] == ["service-resolver/api"]
    spare = {"ID": "s", **foreign}
    found, problems = resolutions(resolved({"Failover": {"Targets": ["s"]}}, spare), "dc1")
    assert (list(found), found["t"].failover) == (["t"], ())
    assert "failover to s" in problems[0].rule


def test_balancing_with_defaults_for_what_is_not_said() -> None:
    balancer = {
        "Policy": "maglev",
        "RingHashConfig": {"MinimumRingSize": 8},
        "HashPolicies": [
            {"Field": "query_parameter", "FieldValue": "user"},
            {"Field": "cookie", "FieldValue": "s", "CookieConfig": {"Session": True}},
            {"Field": "cookie", "FieldValue": "t", "CookieConfig": {"TTL": "10m"}},
            {"Field": "cookie", "FieldValue": "u", "Terminal": True},
        ],
    }
    assert only(resolved({}, LoadBalancer=balancer)).balancing == Balancing(
        policy="maglev",
        minimum_ring_size=8,
        hash_policies=(
            HashPolicy(query="user"),
            HashPolicy(cookie="s", cookie_ttl=0.0),
            HashPolicy(cookie="t", cookie_ttl=600.0),
            HashPolicy(cookie="u", terminal=True),
        ),
    )


def test_unknown_balancing_is_told() -> None:
    balancer = {"Policy": "psychic", "HashPolicies": [{"Field": "aura", "FieldValue": "x"}]}
    found, problems = resolutions(resolved({}, LoadBalancer=balancer), "dc1")
    assert found["t"].balancing == Balancing()
    assert [problem.path for problem in problems] == [
        "service-resolver/api: LoadBalancer.Policy",
        "service-resolver/api: LoadBalancer.HashPolicies[0]",
    ]
