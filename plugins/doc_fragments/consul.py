# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""How a module of this collection reaches Consul."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  consul_address:
    description:
      - URL of Consul's HTTP API, as seen from the host that the module runs on.
    type: str
    default: http://127.0.0.1:8500
  token:
    description:
      - ACL token. It is sent in a header and never logged.
      - Needs C(operator:write) for M(fleetmesh.mesh.fleetmesh_config_entry) of kind
        C(proxy-defaults) and C(mesh), C(service:write) for the other kinds and
        C(intentions:write) for intentions.
    type: str
  token_file:
    description:
      - File on the host with the ACL token; used when O(token) is not given.
    type: path
  datacenter:
    description:
      - Datacenter to write to; without it the one of the agent that is asked.
    type: str
  ca_file:
    description:
      - Certificates (PEM) to trust for an C(https) address; without it the system's.
    type: path
  client_cert:
    description:
      - Client certificate (PEM) for an C(https) address that asks for one.
    type: path
  client_key:
    description:
      - Key (PEM) of O(client_cert).
    type: path
  validate_certs:
    description:
      - Whether the server's certificate must be valid.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for one answer of Consul.
    type: float
    default: 10.0
"""
