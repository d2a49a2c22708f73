#!/usr/bin/python
# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Allow or deny one service's calls to another, or say nothing about them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleetmesh_intention
short_description: An intention of Consul
version_added: 0.1.0
description:
  - Says that one service may call another or may not, or takes that word back.
  - On Consul before 1.9 an intention is an object of its own. That version has no compare-and-set
    for it, so the module reads back what it wrote.
  - From Consul 1.9 on it is a source in the C(service-intentions) config entry of its
    destination. The write is a compare-and-set on that entry and leaves its other sources alone.
  - When somebody else wrote in between, the intention is read and compared again, five times at
    most.
author:
  - the fleetmesh authors (@fleetmesh)
options:
  source:
    description:
      - Name of the calling service, or C(*) for every one.
    type: str
    required: true
  destination:
    description:
      - Name of the called service, or C(*) for every one.
    type: str
    required: true
  action:
    description:
      - What becomes of the call.
      - One of O(action) and O(permissions) is needed with O(state=present).
    type: str
    choices: [allow, deny]
  permissions:
    description:
      - Permissions by request, in order, with Consul's own keys. Consul 1.9 or newer.
    type: list
    elements: dict
  description:
    description:
      - A note for people, shown in Consul's UI.
    type: str
    default: ""
  meta:
    description:
      - Keys and values kept with it.
      - From Consul 1.9 on they belong to the destination's whole entry. They are set when this
        module creates that entry and not looked at afterwards.
    type: dict
    default: {}
  state:
    description:
      - Whether the intention exists.
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
    description: Shows the intention before and after.
    support: full
seealso:
  - module: fleetmesh.mesh.fleetmesh_config_entry
"""

EXAMPLES = r"""
- name: The shop's front may call the API
  fleetmesh.mesh.fleetmesh_intention:
    source: web
    destination: api
    action: allow
    description: pages are made of it

- name: Nobody calls anybody unless another intention says so
  fleetmesh.mesh.fleetmesh_intention:
    source: "*"
    destination: "*"
    action: deny

- name: Reading only (Consul 1.9 or newer)
  fleetmesh.mesh.fleetmesh_intention:
    source: reports
    destination: api
    permissions:
      - Action: allow
        HTTP:
          PathPrefix: /
          Methods: [GET, HEAD]

- name: No word about orders any more
  fleetmesh.mesh.fleetmesh_intention:
    source: orders
    destination: api
    state: absent
"""

RETURN = r"""
intention:
  description:
    - The intention as Consul holds it now; in check mode as it would be.
    - Empty when it is absent.
  returned: success
  type: dict
  sample:
    source: web
    destination: api
    action: allow
    permissions: []
    description: pages are made of it
    meta: {}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleetmesh.mesh.plugins.module_utils.consul import (
    CONSUL_ARGUMENTS,
    Consul,
    ConsulError,
    compare_and_set,
)
from ansible_collections.fleetmesh.mesh.plugins.module_utils.intentions import (
    equal,
    shown,
    store_of,
)


def wanted_intention(params):
    """The intention to write, None for absent."""
    if params["state"] == "absent":
        return None
    return {
        "source": params["source"],
        "destination": params["destination"],
        "action": params["action"],
        "permissions": params["permissions"] or [],
        "description": params["description"],
        "meta": {key: str(value) for key, value in params["meta"].items()},
    }


def converge(store, source, destination, wanted, check_mode):
    """Make it so. Returns (before, after), None for absent."""
    before = store.read(source, destination)
    if equal(before, wanted):
        return before, before
    if check_mode:
        return before, wanted
    if wanted is None:
        store.delete(source, destination)
    else:
        store.write(wanted)
    return before, store.read(source, destination)


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "destination": {"type": "str", "required": True},
            "action": {"type": "str", "choices": ["allow", "deny"]},
            "permissions": {"type": "list", "elements": "dict"},
            "description": {"type": "str", "default": ""},
            "meta": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **CONSUL_ARGUMENTS,
        },
        mutually_exclusive=[("action", "permissions")],
        required_if=[("state", "present", ("action", "permissions"), True)],
        supports_check_mode=True,
    )
    source, destination = module.params["source"], module.params["destination"]
    name = f"{source} => {destination}"
    try:
        wanted = wanted_intention(module.params)
        store = store_of(Consul(module.params), destination)
        before, after = compare_and_set(
            lambda: converge(store, source, destination, wanted, module.check_mode),
            f"intention {name}",
        )
    except ConsulError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=not equal(before, after),
        intention=shown(after) or {},
        diff={
            "before_header": name,
            "after_header": name,
            "before": shown(before),
            "after": shown(after),
        },
    )


if __name__ == "__main__":
    main()
