"""What the agent may do in a Consul with ACLs: its policy, and the rule that a refusal names.

Each rule was found necessary, and all together sufficient, on a Consul 1.8.7 that denies by
default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import unquote

import msgspec

_AGENT = "/v1/agent/self"
_LEAF = "/v1/agent/connect/ca/leaf/"
_CHAIN = "/v1/discovery-chain/"
_HEALTH = "/v1/health/connect/"
_KEYS = "/v1/kv/"
VIRTUAL_IPS = "fleetmesh/virtual-ips/"
_INTENTIONS = "/v1/connect/intentions"
_REGISTERING = ("/v1/agent/service/", "/v1/agent/check/")
NODE_READ = 'the token needs node:read: node_prefix "" { policy = "read" }'


class Rule(msgspec.Struct, frozen=True):
    """`resource` is Consul's word, such as `service` or `node_prefix`; `purpose` a sentence."""

    resource: str
    name: str
    access: str
    purpose: str

    def __str__(self) -> str:
        return f'{self.resource} {json.dumps(self.name)} {{ policy = "{self.access}" }}'


def rules(services: Iterable[str]) -> tuple[Rule, ...]:
    """The least that the agent of a host with these services needs."""
    own: list[Rule] = []
    for name in services:
        own.append(Rule("service", name, "write", f"Register {name}, have its certificate."))
        own.append(Rule("service", f"{name}-sidecar-proxy", "write", "Register its sidecar."))
    return (
        *own,
        Rule("service_prefix", "", "read", "Find services, read their chains and intentions."),
        Rule("node_prefix", "", "read", "See instances: Consul shows none of a hidden node."),
        Rule("key_prefix", VIRTUAL_IPS, "write", "Agree with other hosts on virtual addresses."),
    )


def policy(wanted: Iterable[Rule]) -> str:
    """In HCL, as `consul acl policy create -rules @file` takes it."""
    return "\n".join(f"# {rule.purpose}\n{rule}" for rule in wanted) + "\n"


def missing(path: str, said: str) -> str:
    """What to do about a 403 for `path`, of which Consul said `said`; empty when unknown.

    >>> missing("/v1/agent/connect/ca/leaf/web", "Permission denied")
    'the token needs service:write on "web"'
    """
    if "ACL not found" in said:
        return "Consul does not know the token: it was deleted, or belongs to another cluster"
    if "Missing service:write on " in said:
        name = said.rpartition("Missing service:write on ")[2].strip().strip('"')
        return f'the token needs service:write on "{name}"'
    if path.startswith(_LEAF):
        return f'the token needs service:write on "{unquote(path.removeprefix(_LEAF))}"'
    for prefix in (_CHAIN, _HEALTH):
        if path.startswith(prefix):
            return f'the token needs service:read on "{unquote(path.removeprefix(prefix))}"'
    if path.startswith(_INTENTIONS):
        return 'the token needs service:read: service_prefix "" { policy = "read" }'
    if path == _AGENT:
        return 'the token needs agent:read: agent_prefix "" { policy = "read" }'
    if path.startswith(_KEYS + VIRTUAL_IPS):
        return f'the token needs key:write: key_prefix "{VIRTUAL_IPS}" {{ policy = "write" }}'
    if path.startswith(_KEYS):
        return f'the token needs key:write on "{unquote(path.removeprefix(_KEYS))}"'
    if path.startswith(_REGISTERING):
        return "the token needs service:write on the services of this host"
    return ""
