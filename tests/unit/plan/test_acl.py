from __future__ import annotations

import pytest

from fleetmesh.plan.acl import missing, policy, rules


def test_policy_writes_the_host_s_own_services_and_reads_the_rest() -> None:
    text = policy(rules(["web", "api"]))
    granted = [line for line in text.splitlines() if not line.startswith("#")]
    assert granted == [
        'service "web" { policy = "write" }',
        'service "web-sidecar-proxy" { policy = "write" }',
        'service "api" { policy = "write" }',
        'service "api-sidecar-proxy" { policy = "write" }',
        'service_prefix "" { policy = "read" }',
        'node_prefix "" { policy = "read" }',
        'key_prefix "fleetmesh/virtual-ips/" { policy = "write" }',
    ]
    assert text.count("#") == len(granted)


@pytest.mark.parametrize(
    ("path", "said", "rule"),
    [
        ("/v1/agent/service/register", "… Missing service:write on web", 'service:write on "web"'),
        ("/v1/agent/check/pass/x", "Permission denied", "service:write"),
        ("/v1/discovery-chain/api", "Permission denied", 'service:read on "api"'),
        ("/v1/health/connect/api", "Permission denied", 'service:read on "api"'),
        ("/v1/connect/intentions/check", "Permission denied", "service:read"),
        ("/v1/agent/self", "Permission denied", "agent:read"),
        ("/v1/kv/a/b", "Permission denied", 'key:write on "a/b"'),
        ("/v1/kv/fleetmesh/virtual-ips/web", "denied", 'key_prefix "fleetmesh/virtual-ips/" {'),
        ("/v1/catalog/services", "ACL not found", "does not know the token"),
    ],
)
def test_refusal_names_the_rule(path: str, said: str, rule: str) -> None:
    assert rule in missing(path, said)


def test_unknown_question_has_no_rule() -> None:
    assert missing("/v1/operator/raft", "Permission denied") == ""
