"""The recorded chains of two Consul servers → the exact upstreams."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.contracts.test_consul_api import RECORDED, VERSIONS, decoded

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.traffic import (
    Balancing,
    FieldChanges,
    FieldMatch,
    HashPolicy,
    Match,
    Protocol,
    QueryMatch,
    Retries,
    Route,
    Split,
    Target,
    Upstream,
)
from fleetmesh.plan.answers import ChainAnswer, Instance, Roots
from fleetmesh.plan.chain import InstanceQuery, queries
from fleetmesh.plan.compile import Compiled, compile_snapshot
from fleetmesh.plan.observed import Observed
from fleetmesh.settings import Settings

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"no recorded answers at {RECORDED}")

MIDDLE = {"1.8.7": "default", "1.21.4": "default.default"}
"""The part of a target's id between the service and the datacenter."""


def compiled(version: str, name: str) -> tuple[Upstream, Compiled]:
    """The upstream of a recorded chain, with one address known of its service."""
    chain = decoded(version, f"discovery-chain-{name}", ChainAnswer).chain
    body: dict[str, Any] = {"Node": {"Node": "n"}, "Service": {"ID": "s", "Service": "s"}}
    one = msgspec.convert(body, Instance)
    result = compile_snapshot(
        Settings(address="10.0.0.1"),
        Observed(
            datacenter="dc1",
            node="n",
            roots=decoded(version, "ca-roots", Roots),
            intentions=(),
            default_allow=True,
            catalog=frozenset({chain.service}),
            chains={chain.service: chain},
            instances=dict.fromkeys(queries(chain, "dc1"), ())
            | {InstanceQuery(chain.service): (one,)},
        ),
    )
    assert isinstance(result, Compiled)
    (upstream,) = result.snapshot.upstreams
    return upstream, result


def target(version: str, service: str, dc: str = "dc1", subset: str = "", **more: Any) -> Target:
    trust = decoded(version, "ca-roots", Roots).trust_domain
    prefix = f"{subset}." if subset else ""
    fields: dict[str, Any] = {"connect_timeout": 3.0 if service == "api" else 5.0}
    return Target(
        id=f"{prefix}{service}.{MIDDLE[version]}.{dc}",
        service=service,
        datacenter=dc,
        sni=f"{prefix}{service}.default.{dc}.internal.{trust}",
        spiffe_id=SpiffeId(trust, dc, service),
        subset=subset,
        **(fields | more),
    )


CART = Route(
    name="api/0",
    match=Match(
        path_prefix="/cart",
        headers=(
            FieldMatch("x-debug", exact="1"),
            FieldMatch("x-no", present=True, invert=True),
        ),
        query=(QueryMatch("q", regex="[a-z]+"),),
        methods=("GET",),
    ),
    prefix_rewrite="/",
    timeout=5.0,
    retries=Retries(3, ("connect-failure",), (503, 504)),
)


def test_routed_chain_of_1_8() -> None:
    version = "1.8.7"
    cart = target(version, "cart")
    v1 = target(version, "api", subset="v1")
    v2 = target(version, "api", subset="v2", failover=(cart.id,))
    upstream, result = compiled(version, "api")
    assert upstream == Upstream(
        service="api",
        protocol=Protocol.HTTP,
        target=v1,
        routes=(
            msgspec.structs.replace(CART, target=cart),
            Route("api/1", Match(path_regex="/v[0-9]+/.*"), v2),
        ),
        splits=(Split(9950, v1), Split(50, v2)),
    )
    assert result.warnings == ()


def test_routed_chain_of_1_21() -> None:
    """With header changes, balancing, a request timeout of the resolver and failover targets."""
    version = "1.21.4"
    balancing = Balancing(
        policy="ring_hash",
        minimum_ring_size=512,
        maximum_ring_size=2048,
        hash_policies=(
            HashPolicy(header="x-user"),
            HashPolicy(cookie="session", cookie_ttl=600.0, cookie_path="/"),
            HashPolicy(source_address=True, terminal=True),
        ),
    )
    cart = target(version, "cart")
    v1 = target(version, "api", subset="v1", balancing=balancing)
    spare = target(version, "api", "dc2", "v2", balancing=balancing)
    failover = (cart.id, v1.id, spare.id)
    v2 = target(version, "api", subset="v2", failover=failover, balancing=balancing)
    upstream, result = compiled(version, "api")
    assert upstream == Upstream(
        service="api",
        protocol=Protocol.HTTP,
        target=v1,
        routes=(
            msgspec.structs.replace(
                CART,
                match=msgspec.structs.replace(CART.match, ignore_case=True),
                target=cart,
                idle_timeout=30.0,
                retries=Retries(3, ("connect-failure", "reset", "refused-stream"), (503, 504)),
                request_fields=FieldChanges(
                    add=(("x-a", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),),
                    set=(("x-b", "2"),),
                    remove=("x-c",),
                ),
                response_fields=FieldChanges(set=(("x-r", "1"),)),
            ),
            Route(
                "api/1",
                Match(path_exact="/only", headers=(FieldMatch("x-v", suffix="abc"),)),
                cart,
            ),
            Route("api/2", Match(path_regex="/v[0-9]+/.*"), v2, timeout=20.0),
        ),
        splits=(
            Split(9950, v1),
            Split(
                50,
                v2,
                FieldChanges(set=(("x-canary", "1"),)),
                FieldChanges(add=(("x-served-by", "v2"),), remove=("server",)),
            ),
        ),
        spares=(spare,),
        timeout=20.0,
    )
    assert result.warnings == ()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["cart", "orders", "web", "unknown"])
def test_plain_chains_lead_to_the_service_itself(version: str, name: str) -> None:
    upstream, _ = compiled(version, name)
    assert (upstream.routes, upstream.splits, upstream.spares) == ((), (), ())
    assert upstream.target.service == upstream.service
    assert upstream.target.connect_timeout == 5.0


@pytest.mark.parametrize("version", VERSIONS)
def test_chain_of_another_datacenter_asks_there(version: str) -> None:
    chain = decoded(version, "discovery-chain-dc2", ChainAnswer).chain
    asked = {(query.service, query.datacenter) for query in queries(chain, "dc1")}
    assert {("api", "dc2"), ("cart", "dc2")} <= asked
    upstream, _ = compiled(version, "dc2")
    assert upstream.target.spiffe_id.datacenter == "dc2"
    assert upstream.target.sni.startswith("v1.api.default.dc2.internal.")
