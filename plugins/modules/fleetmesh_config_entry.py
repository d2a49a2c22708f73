#!/usr/bin/python
# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Write or delete one config entry of Consul."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleetmesh_config_entry
short_description: A config entry of Consul
version_added: 0.1.0
description:
  - Writes a config entry (C(service-defaults), C(service-router) and the others) or deletes it.
  - The entry is replaced whole; a key that is left out is a key that is removed.
  - Entries are compared by meaning. Consul's indexes, defaults and empty structures, another
    spelling of a duration (C(5s), C(5000ms)) or of a key (C(ConnectTimeout), C(connect_timeout))
    are no difference.
  - Every write is a compare-and-set on the entry's C(ModifyIndex). When somebody else wrote in
    between, the entry is read and compared again, five times at most.
  - Consul itself judges the content; its message is given back with the entry's name.
author:
  - the fleetmesh authors (@fleetmesh)
options:
  kind:
    description:
      - Kind of the entry, as Consul names it. Consul 1.8 knows C(proxy-defaults),
        C(service-defaults), C(service-resolver), C(service-splitter), C(service-router),
        C(ingress-gateway) and C(terminating-gateway); later versions know more.
    type: str
    required: true
  name:
    description:
      - Name of the entry; C(global) for C(proxy-defaults), C(mesh) for C(mesh).
    type: str
    required: true
  entry:
    description:
      - The rest of the entry with Consul's own keys. C(Kind) and C(Name) may stand in it and must
        then be the same as O(kind) and O(name).
      - A key without a value (null) is taken as left out; inside C(Config) and C(Meta) it is
        refused, because it ends Consul 1.8's servers in a panic.
    type: dict
    default: {}
  state:
    description:
      - Whether the entry exists.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - fleetmesh.mesh.consul
attributes:
  check_mode:
    description: Says what would change and writes nothing.
    support: full
  diff_mode:
    description: Shows the entry before and after, without indexes.
    support: full
seealso:
  - module: fleetmesh.mesh.fleetmesh_intention
  - name: Config entries
    description: Consul's reference of kinds and keys.
    link: https://developer.hashicorp.com/consul/docs/connect/config-entries
"""

EXAMPLES = r"""
- name: The service speaks HTTP
  fleetmesh.mesh.fleetmesh_config_entry:
    kind: service-defaults
    name: api
    entry:
      Protocol: http

- name: Two versions of it, told apart by service meta
  fleetmesh.mesh.fleetmesh_config_entry:
    kind: service-resolver
    name: api
    entry:
      DefaultSubset: v1
      ConnectTimeout: 3s
      Subsets:
        v1:
          Filter: Service.Meta.version == "v1"
        v2:
          Filter: Service.Meta.version == "v2"
          OnlyPassing: true

- name: No router any more
  fleetmesh.mesh.fleetmesh_config_entry:
    kind: service-router
    name: api
    state: absent
    token_file: /etc/consul.d/operator.token
"""

RETURN = r"""
entry:
  description:
    - The entry as Consul holds it now, with its indexes; in check mode as it would be written.
    - Empty when it is absent.
  returned: success
  type: dict
  sample:
    Kind: service-defaults
    Name: api
    Protocol: http
    CreateIndex: 31
    ModifyIndex: 44
modify_index:
  description: Index of the entry's last change; 0 when it is absent.
  returned: success
  type: int
  sample: 44
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleetmesh.mesh.plugins.module_utils.consul import (
    CONSUL_ARGUMENTS,
    Consul,
    ConsulError,
    compare_and_set,
)
from ansible_collections.fleetmesh.mesh.plugins.module_utils.entries import (
    nulls,
    opaque,
    same,
    tidy,
)


def wanted_entry(params):
    """The whole entry to write, None for absent. Raises `ConsulError` on a contradiction."""
    kind, name = params["kind"], params["name"]
    if params["state"] == "absent":
        return None
    entry = dict(params["entry"])
    for key, value in (("Kind", kind), ("Name", name)):
        if entry.setdefault(key, value) != value:
            raise ConsulError(
                f"{kind}/{name}: entry.{key} is {entry[key]!r}; it must be {value!r} or left out"
            )
    if kind == "mesh":
        del entry["Name"]
    empty = [f"{key}.{path}" for key, value in opaque(entry) for path in nulls(value)]
    if empty:
        raise ConsulError(
            f"{kind}/{name}: {', '.join(empty)} has no value (null), which ends a Consul 1.8 "
            "server in a panic. Give it a value or leave the key out"
        )
    return entry


def converge(consul, kind, name, wanted, check_mode):
    """Make it so. Returns (before, after): entries as Consul holds them, None for absent."""
    before = consul.read_entry(kind, name)
    if same(before, wanted):
        return before, before
    if check_mode:
        return before, wanted
    index = (before or {}).get("ModifyIndex", 0)
    if wanted is None:
        consul.delete_entry(kind, name, index)
        return before, None
    consul.write_entry(wanted, index)
    return before, consul.read_entry(kind, name)


def main():
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "entry": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **CONSUL_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    kind, name = module.params["kind"], module.params["name"]
    try:
        wanted = wanted_entry(module.params)
        consul = Consul(module.params)
        before, after = compare_and_set(
            lambda: converge(consul, kind, name, wanted, module.check_mode), f"{kind}/{name}"
        )
    except ConsulError as error:
        module.fail_json(msg=str(error))
    header = f"{kind}/{name}"
    module.exit_json(
        changed=not same(before, after),
        entry=after or {},
        modify_index=(after or {}).get("ModifyIndex", 0),
        diff={
            "before_header": header,
            "after_header": header,
            "before": tidy(before) or "",
            "after": tidy(after) or "",
        },
    )


if __name__ == "__main__":
    main()
