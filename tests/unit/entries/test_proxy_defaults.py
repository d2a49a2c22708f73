"""proxy-defaults: the opaque Config."""

from __future__ import annotations

import yaml

from fleetmesh.entries.policy import read_policy
from fleetmesh.settings.decode import Reader
from fleetmesh.settings.document import compose

NULLS = """config_entries:
  - Kind: proxy-defaults
    Name: global
    Config:
      limits: {max: , min: 0}
      list: [1, ~]
      empty: {}
"""


def test_every_null_in_config_is_named() -> None:
    """Consul 1.8.7 panics when it applies one."""
    reader = Reader("policy.yml")
    node = compose(NULLS, "policy.yml")
    assert isinstance(node, yaml.MappingNode)
    read_policy(reader, node)
    says = "has no value, which ends a Consul 1.8 server in a panic"
    says += ". Give it one or remove the line"
    assert [str(problem) for problem in reader.problems] == [
        f"policy.yml:5: config_entries[0].Config.limits.max: {says}",
        f"policy.yml:6: config_entries[0].Config.list[1]: {says}",
    ]
