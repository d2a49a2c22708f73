"""The registry of config-entry kinds, and entries that are right."""

from __future__ import annotations

import pkgutil

import msgspec
import pytest
import yaml

from fleetmesh import entries
from fleetmesh.entries import KINDS
from fleetmesh.entries.policy import read_policy
from fleetmesh.entries.shape import consul_case
from fleetmesh.settings.decode import Reader
from fleetmesh.settings.document import compose

HELPERS = {"shape", "policy"}

RIGHT = """
- {Kind: proxy-defaults, Name: global, Config: {protocol: http, local_connect_timeout_ms: 1000}}
- Kind: service-defaults
  Name: api
  Protocol: http
  ExternalSNI: api.example.com
  MeshGateway: {Mode: local}
  MutualTLSMode: strict
  Expose: {Checks: true, Paths: [{ListenerPort: 21500, Path: /metrics, LocalPathPort: 9102}]}
  UpstreamConfig: {Defaults: {Limits: {MaxConnections: 10}}}
- Kind: service-resolver
  Name: api
  DefaultSubset: v1
  ConnectTimeout: 3s
  Subsets: {v1: {Filter: Service.Meta.version == v1, OnlyPassing: true}, v2: {}}
  Failover: {v1: {ServiceSubset: v2}, "*": {Datacenters: [dc2]}}
  LoadBalancer: {Policy: ring_hash, RingHashConfig: {MinimumRingSize: 64}}
- {Kind: service-resolver, Name: old-api, Redirect: {Service: api, ServiceSubset: v1}}
- Kind: service-splitter
  Name: api
  Splits: [{Weight: 99.99, ServiceSubset: v1}, {Weight: 0.01, ServiceSubset: v2}]
- Kind: service-router
  Name: api
  Routes:
    - Match: {HTTP: {PathPrefix: /v2, Methods: [GET, HEAD], Header: [{Name: x, Present: true}]}}
      Destination: {ServiceSubset: v2, PrefixRewrite: /, RequestTimeout: 2s, NumRetries: 2}
    - Match: {HTTP: {QueryParam: [{Name: debug, Exact: "1"}]}}
      Destination: {RetryOnStatusCodes: [502, 503], RequestHeaders: {Set: {x-debug: "1"}}}
- Kind: service-intentions
  Name: api
  Sources:
    - {Name: web, Action: allow}
    - {Name: "*", Permissions: [{Action: allow, HTTP: {PathExact: /health}}, {Action: deny}]}
- Kind: ingress-gateway
  Name: edge
  TLS: {Enabled: true}
  Listeners:
    - {Port: 8443, Protocol: http, Services: [{Name: "*"}, {Name: api, Hosts: [a.example.com]}]}
- Kind: terminating-gateway
  Name: egress
  Services: [{Name: db, CAFile: /a, CertFile: /b, KeyFile: /c, SNI: db.example.com}, {Name: x}]
- {Kind: mesh, TransparentProxy: {MeshDestinationsOnly: true}}
- {Kind: exported-services, Name: default, Services: [{Name: api, Consumers: [{Peer: east}]}]}
- {Kind: jwt-provider, Name: okta, Issuer: x, JSONWebKeySet: {Local: {JWKS: aGVsbG8=}}}
"""


def test_every_module_of_a_kind_is_listed() -> None:
    modules = {module.name for module in pkgutil.iter_modules(entries.__path__)} - HELPERS
    assert {name.replace("-", "_") for name in KINDS} == modules


def test_entries_that_are_right() -> None:
    """One of every kind, and nothing to complain of."""
    reader = Reader("policy.yaml")
    node = compose(yaml.safe_dump({"config_entries": yaml.safe_load(RIGHT)}), "policy.yaml")
    assert isinstance(node, yaml.MappingNode)
    policy = read_policy(reader, node)
    assert [str(problem) for problem in reader.problems] == []
    assert {subject.text.split("/")[0] for subject in policy.subjects} == set(KINDS)


@pytest.mark.parametrize(
    ("ours", "consuls"),
    [
        ("external_sni", "ExternalSNI"),
        ("mutual_tls_mode", "MutualTLSMode"),
        ("ca_file", "CAFile"),
        ("path_exact", "PathExact"),
        ("json_web_key_set", "JSONWebKeySet"),
        ("local_connect_timeout_ms", "LocalConnectTimeoutMs"),
    ],
)
def test_keys_are_spelt_as_consul_spells_them(ours: str, consuls: str) -> None:
    assert consul_case(ours) == consuls


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_has_the_common_keys(kind: entries.EntryKind) -> None:
    keys = {field.encode_name for field in msgspec.structs.fields(kind.shape)}
    assert {"Kind", "Name", "Namespace", "Partition", "Meta"} <= keys
