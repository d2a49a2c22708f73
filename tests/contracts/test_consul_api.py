"""Recorded answers of two Consul servers: all decode, and mean what they should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetmesh.core.authz import Authorizer
from fleetmesh.core.request import RequestHead
from fleetmesh.model.identity import Action, SpiffeId
from fleetmesh.model.traffic import Health, Protocol
from fleetmesh.plan.answers import (
    AgentChecks,
    AgentSelf,
    AgentServices,
    CatalogServices,
    ChainAnswer,
    Instance,
    IntentionEntry,
    LeafAnswer,
    Roots,
    seconds,
)
from fleetmesh.plan.chain import InstanceQuery, resolutions
from fleetmesh.plan.compile import Compiled, compile_snapshot
from fleetmesh.plan.defaults import ProxyDefaults, ServiceDefaults
from fleetmesh.plan.intentions import for_destination, readable
from fleetmesh.plan.observed import Observed
from fleetmesh.settings import ServiceSettings, Settings

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "consul-api"
VERSIONS = ("1.8.7", "1.21.4")

pytestmark = pytest.mark.skipif(
    not RECORDED.is_dir(),
    reason=f"no recorded answers at {RECORDED}: they are not in the repository",
)

DECODED: tuple[tuple[str, Any], ...] = (
    (r"/v1/agent/self", AgentSelf),
    (r"/v1/agent/services", AgentServices),
    (r"/v1/agent/checks", AgentChecks),
    (r"/v1/agent/connect/ca/roots", Roots),
    (r"/v1/connect/ca/roots", Roots),
    (r"/v1/agent/connect/ca/leaf/.+", LeafAnswer),
    (r"/v1/connect/intentions", tuple[IntentionEntry, ...] | None),
    (r"/v1/connect/intentions/match.*", dict[str, tuple[IntentionEntry, ...] | None]),
    (r"/v1/connect/intentions/check.*", dict[str, bool]),
    (r"/v1/catalog/services", CatalogServices),
    (r"/v1/discovery-chain/[^?]+(\?.*)?", ChainAnswer),
    (r"/v1/config/service-defaults", tuple[ServiceDefaults, ...]),
    (r"/v1/config/proxy-defaults", tuple[ProxyDefaults, ...]),
    (r"/v1/health/(connect|ingress)/.+", tuple[Instance, ...] | None),
)


def recordings() -> list[tuple[str, dict[str, Any]]]:
    """Every recorded call as (where, call)."""
    found = []
    for file in sorted(RECORDED.glob("*/*.json")):
        content = json.loads(file.read_text())
        calls = content if isinstance(content, list) else [content]
        for number, call in enumerate(calls):
            if "request" not in call:  # agent-self.json is a body alone
                call = {"request": {"method": "GET", "path": "/v1/agent/self"}, "body": call}
            found.append((f"{file.parent.name}/{file.stem}[{number}]", call))
    return found


def body(version: str, name: str) -> Any:
    return json.loads((RECORDED / version / f"{name}.json").read_text())["body"]


def decoded(version: str, name: str, kind: Any) -> Any:
    return msgspec.json.decode(json.dumps(body(version, name)), type=kind)


def test_every_answer_that_the_mesh_reads_decodes() -> None:
    """As JSON bytes, as they came over the wire."""
    seen: set[str] = set()
    for where, call in recordings():
        if call["request"]["method"] != "GET" or call.get("status", 200) != 200:
            continue
        for pattern, kind in DECODED:
            if re.fullmatch(pattern, call["request"]["path"]):
                try:
                    msgspec.json.decode(json.dumps(call["body"]), type=kind)
                except msgspec.DecodeError as error:
                    pytest.fail(f"{where}: {error}")
                seen.add(pattern)
    assert seen >= {pattern for pattern, _ in DECODED if pattern != r"/v1/connect/ca/roots"}


@pytest.mark.parametrize("version", VERSIONS)
def test_leaf_names_its_identity(version: str) -> None:
    leaf = decoded(version, "ca-leaf-api", LeafAnswer)
    roots = decoded(version, "ca-roots", Roots)
    assert SpiffeId.parse(leaf.uri) == SpiffeId(roots.trust_domain, "dc1", "api")
    assert (leaf.valid_before - leaf.valid_after).total_seconds() == 72 * 3600


@pytest.mark.parametrize("version", VERSIONS)
def test_default_chain_leads_to_the_service_itself(version: str) -> None:
    chain = decoded(version, "discovery-chain-cart", ChainAnswer).chain
    found, problems = resolutions(chain, "dc1")
    (resolution,) = found.values()
    assert resolution.query == InstanceQuery("cart")
    assert resolution.connect_timeout == 5.0
    assert resolution.sni.startswith("cart.default.dc1.internal.")
    assert chain.protocol == "http"
    assert problems == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_timeout_of_every_chain_is_seconds(version: str) -> None:
    """1.8.7 writes strings; later versions strings and nanoseconds."""
    for file in sorted((RECORDED / version).glob("discovery-chain-*.json")):
        chain = decoded(version, file.stem, ChainAnswer).chain
        for node in chain.nodes.values():
            if node.resolver is not None:
                assert 0.1 <= seconds(node.resolver.connect_timeout) <= 60


def authorizer(version: str, destination: str, default_allow: bool) -> Authorizer:
    intentions, _ = readable(decoded(version, "intentions-list", tuple[IntentionEntry, ...]))
    return Authorizer(for_destination(destination, intentions), default_allow)


@pytest.mark.parametrize(
    ("method", "target", "fields", "default", "allowed", "rule"),
    [
        ("GET", "/cart", {}, False, True, "permission 1: allow"),
        ("HEAD", "/cart/7?x=1", {}, False, True, "permission 1: allow"),
        ("POST", "/cart", {}, False, False, "none of 3 permissions web => api matches"),
        ("POST", "/cart", {}, True, True, "none of 3 permissions web => api matches"),
        ("GET", "/admin/x", {"x-role": "guest"}, True, False, "permission 2: deny"),
        ("GET", "/x/%2e./admin", {"x-role": "guest"}, True, False, "permission 2: deny"),
        ("GET", "/admin", {"x-role": "admin", "x-team": "a"}, False, True, "permission 3: allow"),
        ("GET", "/other", {"X-Team": "a"}, False, True, "permission 3: allow"),
        ("GET", "/a%2f..%2fadmin", {"x-team": "a"}, True, False, ""),
    ],
)
def test_permissions_decide_by_request(
    method: str, target: str, fields: dict[str, str], default: bool, allowed: bool, rule: str
) -> None:
    request = RequestHead()
    request.on_url(target.encode())
    request.on_header(b"Host", b"api")
    for name, value in fields.items():
        request.on_header(name.encode(), value.encode())
    assert request.judge(method.encode(), "1.1", 100) is None
    verdict = authorizer("1.21.4", "api", default).explain("web", request)
    assert (verdict.allowed, verdict.rule) == (allowed, rule)


def test_sources_without_permissions_are_decided_at_once() -> None:
    """By precedence 9, 8, 6: exact, any source, any destination."""
    api = authorizer("1.21.4", "api", True)
    assert api.rules("cart") is None
    assert api.decide("cart").allowed
    assert str(api.decide("orders")) == "deny * => api"
    assert str(authorizer("1.21.4", "shop", True).decide("orders")) == "deny orders => *"
    assert authorizer("1.21.4", "shop", True).decide("web").allowed
    assert not authorizer("1.21.4", "shop", False).decide("web").allowed
    assert str(authorizer("1.8.7", "orders", True).decide("web")) == "deny web => orders"
    assert str(authorizer("1.8.7", "api", False).decide("web")) == "allow * => api"


def test_a_connection_is_authorised_as_the_agent_does() -> None:
    """`/authorize` denies where permissions would have to be asked."""
    assert body("1.21.4", "authorize")["Authorized"] is False
    verdict = authorizer("1.21.4", "api", True).decide("web")
    assert not verdict.allowed
    assert "3 permissions web => api" in str(verdict)


@pytest.mark.parametrize("version", VERSIONS)
def test_order_is_that_of_consul(version: str) -> None:
    entries = decoded(version, "intentions-list", tuple[IntentionEntry, ...])
    matched = decoded(version, "intentions-match", dict[str, tuple[IntentionEntry, ...] | None])
    intentions, _ = readable(entries)
    for destination, expected in matched.items():
        ours = [(i.source, i.destination) for i in for_destination(destination, intentions)]
        assert ours == [(e.source, e.destination) for e in expected or ()]
    stripped = [msgspec.structs.replace(entry, precedence=0) for entry in entries]
    assert [i.precedence for i in readable(stripped)[0]] == [e.precedence for e in entries]


def test_what_asks_for_a_token_denies_its_source_and_is_told() -> None:
    entries = decoded("1.21.4", "intentions-list", tuple[IntentionEntry, ...])
    intentions, warnings = readable(entries)
    (cart,) = (i for i in intentions if i.destination == "cart")
    assert (cart.action, cart.permissions) == (Action.DENY, ())
    assert [w.path for w in warnings] == ["service-intentions/cart: Sources[web]"]


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_answers_compile(version: str) -> None:
    """The whole scenario: sidecars with failing TCP checks are critical endpoints."""
    intentions = decoded(version, "intentions-list", tuple[IntentionEntry, ...])
    observed = Observed(
        datacenter="dc1",
        node="consul1",
        roots=decoded(version, "ca-roots", Roots),
        intentions=intentions,
        default_allow=True,
        catalog=frozenset(decoded(version, "catalog-services", CatalogServices)),
        leaves={"api": decoded(version, "ca-leaf-api", LeafAnswer)},
        chains={
            name: decoded(version, f"discovery-chain-{name}", ChainAnswer).chain
            for name in ("api", "cart", "orders", "web")
        },
        instances={
            InstanceQuery(name): decoded(version, f"health-connect-{name}", tuple[Instance, ...])
            for name in ("api", "orders")
        }
        | {
            InstanceQuery("api", "", f'Service.Meta.version == "{subset}"'): tuple(
                instance
                for instance in decoded(version, "health-connect-api", tuple[Instance, ...])
                if (instance.service.meta or {}).get("version") == subset
            )
            for subset in ("v1", "v2")
        }
        | {InstanceQuery("cart"): ()},
    )
    settings = Settings(address="10.77.0.12", services=(ServiceSettings(name="api", port=8000),))
    compiled = compile_snapshot(settings, observed)
    assert isinstance(compiled, Compiled)
    upstreams = {u.service: u for u in compiled.snapshot.upstreams}
    assert set(upstreams) == {"api", "orders"}
    api = upstreams["api"]
    assert api.protocol is Protocol.HTTP
    assert {("10.77.0.12", 8000), ("10.77.0.13", 8000)} <= set(api.destinations)
    assert [split.weight for split in api.splits] == [9950, 50]
    for split in api.splits:
        (endpoint,) = split.target.endpoints
        # Recorded before Consul had dialled the sidecars: critical, but nobody has looked.
        assert endpoint.health is Health.WARNING
        assert endpoint.meta["version"] == split.target.subset
    assert compiled.snapshot.services[0].protocol is Protocol.HTTP
    assert compiled.snapshot.services[0].leaf is not None
