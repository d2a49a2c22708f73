"""Recorded answers of two Consul servers: all decode, and mean what they should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

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
from fleetmesh.plan.chain import InstanceQuery, resolve
from fleetmesh.plan.compile import Compiled, compile_snapshot
from fleetmesh.plan.intentions import readable
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
    resolution = resolve(chain, "dc1")
    assert resolution.query == InstanceQuery("cart")
    assert resolution.connect_timeout == 5.0
    assert resolution.sni.startswith("cart.default.dc1.internal.")
    assert chain.protocol == "http"
    assert resolution.warnings == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_routed_chain_uses_every_instance_and_says_so(version: str) -> None:
    resolution = resolve(decoded(version, "discovery-chain-api", ChainAnswer).chain, "dc1")
    assert resolution.query == InstanceQuery("api")
    assert [str(w.path) for w in resolution.warnings] == ["service-router/api"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_timeout_of_every_chain_is_seconds(version: str) -> None:
    """1.8.7 writes strings; later versions strings and nanoseconds."""
    for file in sorted((RECORDED / version).glob("discovery-chain-*.json")):
        chain = decoded(version, file.stem, ChainAnswer).chain
        for node in chain.nodes.values():
            if node.resolver is not None:
                assert 0.1 <= seconds(node.resolver.connect_timeout) <= 60


def test_intention_with_permissions_denies_and_is_told() -> None:
    entries = decoded("1.21.4", "intentions-list", tuple[IntentionEntry, ...])
    intentions, warnings = readable(entries)
    with_permissions = {(e.source, e.destination) for e in entries if e.permissions}
    assert with_permissions
    for intention in intentions:
        if (intention.source, intention.destination) in with_permissions:
            assert intention.action is Action.DENY
    assert len(warnings) == len(with_permissions)


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
        },
    )
    settings = Settings(address="10.77.0.12", services=(ServiceSettings(name="api", port=8000),))
    compiled = compile_snapshot(settings, observed)
    assert isinstance(compiled, Compiled)
    upstreams = {u.service: u for u in compiled.snapshot.upstreams}
    assert set(upstreams) == {"api", "orders"}
    api = upstreams["api"]
    assert api.protocol is Protocol.HTTP
    assert {("10.77.0.12", 8000), ("10.77.0.13", 8000)} <= set(api.destinations)
    assert len(api.target.endpoints) == 2
    # Recorded before Consul had dialled the sidecars: critical, but nobody has looked.
    assert {e.health for e in api.target.endpoints} == {Health.WARNING}
    assert {e.meta["version"] for e in api.target.endpoints} == {"v1", "v2"}
    assert compiled.snapshot.services[0].protocol is Protocol.HTTP
    assert compiled.snapshot.services[0].leaf is not None
