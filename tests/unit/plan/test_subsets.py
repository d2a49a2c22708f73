"""Chains of subsets: cut out of the service's own, or made of its resolver."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.support.answers import chain

from fleetmesh.plan.chain import InstanceQuery, queries, resolutions
from fleetmesh.plan.chain_answer import Chain, ChainAnswer
from fleetmesh.plan.subsets import ServiceResolver, subset_chain

RESOLVER = msgspec.convert(
    {
        "Kind": "service-resolver",
        "Name": "api",
        "ConnectTimeout": "3s",
        "Subsets": {"v2": {"Filter": "Service.Meta.v == 2", "OnlyPassing": True}},
        "LoadBalancer": {"Policy": "random"},
    },
    ServiceResolver,
)


def split() -> Chain:
    """Between a subset, which fails over, and another service."""
    targets: dict[str, dict[str, Any]] = {
        "one": {"ServiceSubset": "v1", "Subset": {"Filter": "Service.Meta.v == 1"}},
        "spare": {},
        "other": {"Service": "other", "ServiceSubset": "v2"},
    }
    resolvers = {
        "r1": {"Target": "one", "Failover": {"Targets": ["spare"]}},
        "r2": {"Target": "other"},
    }
    answer = {
        "ServiceName": "api",
        "Datacenter": "dc1",
        "StartNode": "s",
        "Protocol": "http",
        "Nodes": {
            "s": {
                "Type": "splitter",
                "Splits": [{"Weight": 50, "NextNode": key} for key in resolvers],
            },
            **{key: {"Type": "resolver", "Resolver": one} for key, one in resolvers.items()},
        },
        "Targets": {
            key: {"ID": key, "Service": "api", "Datacenter": "dc1"} | one
            for key, one in targets.items()
        },
    }
    return msgspec.convert({"Chain": answer}, ChainAnswer).chain


def test_a_subset_that_the_chain_leads_to_is_cut_out_with_its_failover() -> None:
    cut = subset_chain(split(), "v1", ())
    assert cut is not None
    assert (cut.start, cut.protocol) == ("r1", "http")
    found, problems = resolutions(cut, "dc1")
    assert problems == []
    assert found["one"].failover == ("spare",)
    assert queries(cut, "dc1") == {
        InstanceQuery("api", "", "Service.Meta.v == 1"),
        InstanceQuery("api"),
    }


def test_another_services_subset_of_the_same_name_is_not_it() -> None:
    assert subset_chain(split(), "v2", ()) is None
    made = subset_chain(split(), "v2", (RESOLVER,))
    assert made is not None
    assert queries(made, "dc1") == {InstanceQuery("api", "", "Service.Meta.v == 2")}


def test_a_subset_is_made_of_the_resolver() -> None:
    made = subset_chain(chain("api"), "v2", (RESOLVER,))
    assert made is not None
    (found,) = resolutions(made, "dc1")[0].values()
    assert found.target_id == "v2.api.default.dc1"
    assert (found.subset, found.only_passing, found.connect_timeout) == ("v2", True, 3.0)
    assert found.balancing.policy == "random"
    assert found.sni == ""
    assert made.protocol == "http"


def test_one_of_another_datacenter_is_reached_as_its_service_is() -> None:
    there = chain("api", Datacenter="dc2", MeshGateway={"Mode": "remote"})
    there = msgspec.structs.replace(there, datacenter="dc2")
    made = subset_chain(there, "v2", (RESOLVER,))
    assert made is not None
    assert queries(made, "dc1") == {InstanceQuery("mesh-gateway", "dc2", gateway=True)}
    alone = msgspec.structs.replace(there, targets={})
    made = subset_chain(alone, "v2", (RESOLVER,))
    assert made is not None
    assert queries(made, "dc1") == {InstanceQuery("api", "dc2", "Service.Meta.v == 2")}


def test_there_is_no_subset_that_nobody_defined() -> None:
    assert subset_chain(chain("api"), "v3", (RESOLVER,)) is None
    assert subset_chain(chain("api"), "v2", ()) is None
    assert subset_chain(chain("api"), "v2", (ServiceResolver(name="api"),)) is None
