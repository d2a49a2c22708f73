"""Whatever stands in a file, the answer is settings or problems."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from fleetmesh.entries.policy import check_together, read_policy
from fleetmesh.model.problem import Problem
from fleetmesh.settings import Settings
from fleetmesh.settings.decode import Reader
from fleetmesh.settings.document import compose
from fleetmesh.settings.load import load

SEEDS = range(8)
ROUNDS = 60
AGENT = """\
address: 192.0.2.5
address6: 2001:db8::5
drain_timeout: 1m30s
consul: {address: "http://127.0.0.1:8500", token_file: /etc/token}
capture: {exclude_cidrs: [10.0.0.0/8], ssh_ports: [22, 2222]}
ports: {outbound: [15100, 15355], plain: 15006}
"""
SERVICE = """\
name: cart
port: 7001
user: cart
tags: [blue]
meta: {version: "1.10"}
checks:
  - {name: alive, http: "http://127.0.0.1:7001/", interval: 5s, header: {a: [b]}}
  - ttl: 30
upstreams: [api]
"""
POLICY = """\
config_entries:
  - {Kind: service-splitter, Name: api, Splits: [{Weight: 99.5}, {Weight: 0.5, Service: b}]}
  - {Kind: service-router, Name: api, Routes: [{Match: {HTTP: {PathPrefix: /}}}]}
  - {Kind: service-resolver, Name: api, Failover: {"*": {Datacenters: [dc2]}}}
intentions:
  - {source: web, destination: "*", action: allow}
"""
PIECES = (
    *("{", "}", "[", "]", ":", "- ", "\n", "  ", "\t", '"', "'", "#", "&a ", "*a", "!x ", "|\n"),
    *("? ", "<<: ", "~", "true", "0", "-1", "1e9", ".inf", "\\", "\x00", "\ud7ff", "%", "@", ","),
    *("name: ", "port: ", "checks: ", "Kind: ", "Weight: ", "999999999999999999999999"),
)


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 6)):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in "ab")
        match chance.randrange(3):
            case 0:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[min(end, at + 12) :]
            case _:
                text = text[:at] + text[end : end + 30] + text[at:]
    return text


@pytest.mark.parametrize("seed", SEEDS)
def test_settings_of_any_shape(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    agent, services = tmp_path / "agent.yaml", tmp_path / "services.d"
    services.mkdir()
    for _ in range(ROUNDS):
        agent.write_text(mutated(AGENT, chance))
        (services / "cart.yaml").write_text(mutated(SERVICE, chance))
        found = load(agent, services)
        if not isinstance(found, Settings):
            assert found
            assert all(str(problem).encode() for problem in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_policies_of_any_shape(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        node = compose(mutated(POLICY, chance), "policy.yaml")
        if isinstance(node, Problem):
            continue
        assert isinstance(node, yaml.MappingNode)
        policy = read_policy(Reader("policy.yaml"), node)
        check_together([policy])
        assert all(str(problem).encode() for problem in policy.reader.problems)


def test_what_is_mutated_is_right(tmp_path: Path) -> None:
    """Otherwise the mutations would only ever meet the first problem."""
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "services.d").mkdir()
    (tmp_path / "services.d/cart.yaml").write_text(SERVICE)
    assert isinstance(load(tmp_path / "agent.yaml", tmp_path / "services.d"), Settings)
    node = compose(POLICY, "policy.yaml")
    assert isinstance(node, yaml.MappingNode)
    assert read_policy(Reader("policy.yaml"), node).reader.problems == []
