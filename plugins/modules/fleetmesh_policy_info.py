#!/usr/bin/python
# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Every config entry and intention that Consul holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleetmesh_policy_info
short_description: The config entries and intentions that Consul holds
version_added: 0.1.0
description:
  - Lists config entries of all kinds that the server knows, and all intentions.
  - With ACLs on, Consul leaves out of its lists what the token may not read, without a word.
author:
  - the fleetmesh authors (@fleetmesh)
extends_documentation_fragment:
  - fleetmesh.mesh.consul
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
seealso:
  - module: fleetmesh.mesh.fleetmesh_config_entry
  - module: fleetmesh.mesh.fleetmesh_intention
"""

EXAMPLES = r"""
- name: What is there
  fleetmesh.mesh.fleetmesh_policy_info:
  register: policy

- name: Routers
  ansible.builtin.debug:
    msg: "{{ policy.config_entries | selectattr('Kind', 'eq', 'service-router') }}"
"""

RETURN = r"""
config_entries:
  description: Config entries without indexes and empty structures, C(service-intentions) excepted.
  returned: success
  type: list
  elements: dict
  sample:
    - Kind: service-defaults
      Name: api
      Protocol: http
intentions:
  description:
    - Intentions; C(meta) is empty where Consul keeps none for a single intention, C(entry_meta)
      is then that of the destination's C(service-intentions) entry.
  returned: success
  type: list
  elements: dict
  sample:
    - source: web
      destination: api
      action: allow
      permissions: []
      description: ""
      meta: {}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleetmesh.mesh.plugins.module_utils.consul import (
    CONSUL_ARGUMENTS,
    Consul,
    ConsulError,
)
from ansible_collections.fleetmesh.mesh.plugins.module_utils.entries import KINDS, tidy
from ansible_collections.fleetmesh.mesh.plugins.module_utils.intentions import store_of


def known_entries(consul):
    """Entries of every kind; a kind that this server is too old for has none."""
    found = []
    for kind in KINDS:
        try:
            found += [tidy(entry) for entry in consul.list_entries(kind)]
        except ConsulError as error:
            if "invalid config entry kind" not in str(error):
                raise
    return found


def main():
    module = AnsibleModule(argument_spec=CONSUL_ARGUMENTS, supports_check_mode=True)
    try:
        consul = Consul(module.params)
        entries = known_entries(consul)
        intentions = store_of(consul, "*").list()
    except ConsulError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, config_entries=entries, intentions=intentions)


if __name__ == "__main__":
    main()
