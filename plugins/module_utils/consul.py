# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Consul's HTTP API for the modules of this collection: config entries and compare-and-set.

Standard library and ansible-core only, so that a module runs on any host that reaches Consul.
"""

from __future__ import annotations

import json
import random
import time
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.urls import ConnectionError as TlsError
from ansible.module_utils.urls import SSLValidationError, open_url

ATTEMPTS = 5
CONSUL_ARGUMENTS = {
    "consul_address": {"type": "str", "default": "http://127.0.0.1:8500"},
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path", "no_log": False},
    "datacenter": {"type": "str"},
    "ca_file": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "validate_certs": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 10.0},
}


class ConsulError(Exception):
    """A sentence for the operator: what was tried, what Consul or the network said.

    `status` is Consul's HTTP status, None when no answer came.
    """

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


class ConflictError(Exception):
    """Somebody else changed what we were about to change: read again."""


class Consul:
    """One server or agent. Every method raises `ConsulError`."""

    def __init__(self, params):
        self._address = params["consul_address"].rstrip("/")
        if "://" not in self._address:
            self._address = "http://" + self._address
        self._datacenter = params.get("datacenter")
        self._headers = {"Content-Type": "application/json"}
        token = params.get("token") or _token_from(params.get("token_file"))
        if token:
            self._headers["X-Consul-Token"] = token
        self._options = {
            "timeout": params.get("timeout") or 10.0,
            "validate_certs": params.get("validate_certs", True),
            "ca_path": params.get("ca_file"),
            "client_cert": params.get("client_cert"),
            "client_key": params.get("client_key"),
            "use_proxy": False,
            "headers": self._headers,
        }

    def call(self, method, path, doing, query=None, body=None, absent=None):
        """The decoded answer; None for a 404 whose text begins with `absent`.

        `doing` names the action in errors.
        """
        query = dict(query or {})
        if self._datacenter:
            query["dc"] = self._datacenter
        url = self._address + path + ("?" + urlencode(query) if query else "")
        data = None if body is None else json.dumps(body)
        try:
            answer = open_url(url, method=method, data=data, **self._options)
            text = to_text(answer.read())
        except HTTPError as refused:
            said = " ".join(to_text(refused.read(), errors="replace").split())
            if refused.code == 404 and absent and said.startswith(absent):
                return None
            raise ConsulError(
                f"{doing}: Consul answered {refused.code}: {said or refused.reason}", refused.code
            ) from refused
        except (URLError, SSLValidationError, TlsError, OSError) as unreachable:
            reason = getattr(unreachable, "reason", None) or unreachable
            raise ConsulError(f"{doing}: no answer from {self._address}: {reason}") from unreachable
        try:
            return json.loads(text) if text.strip() else None
        except ValueError as garbled:
            raise ConsulError(
                f"{doing}: {self._address} answered something that is no JSON; is it Consul?"
            ) from garbled

    def read_entry(self, kind, name):
        """The config entry as Consul holds it, None when there is none."""
        path = f"/v1/config/{quote(kind, safe='')}/{quote(name, safe='*')}"
        return self.call("GET", path, f"reading {kind}/{name}", absent="Config entry not found")

    def list_entries(self, kind):
        return self.call("GET", f"/v1/config/{quote(kind, safe='')}", f"listing {kind}") or []

    def write_entry(self, entry, cas):
        """Write if its ModifyIndex is still `cas` (0: there is none), else `ConflictError`."""
        doing = f"writing {entry['Kind']}/{entry.get('Name', '')}"
        if self.call("PUT", "/v1/config", doing, {"cas": cas}, entry) is False:
            raise ConflictError(doing)

    def delete_entry(self, kind, name, cas):
        """Delete if unchanged since `cas`. Servers before 1.11 ignore `cas` on a deletion."""
        doing = f"deleting {kind}/{name}"
        path = f"/v1/config/{quote(kind, safe='')}/{quote(name, safe='*')}"
        if self.call("DELETE", path, doing, {"cas": cas}) is False:
            raise ConflictError(doing)


def compare_and_set(step, what):
    """`step()`, again after each `ConflictError`, five times in all; returns what it returns."""
    for attempt in range(ATTEMPTS):
        try:
            return step()
        except ConflictError:
            # Two plays that collide should not collide again at the next attempt.
            time.sleep(0.05 * (attempt + 1) * (0.5 + random.random()))
    raise ConsulError(
        f"{what} was changed by somebody else during each of {ATTEMPTS} attempts; nothing of ours "
        "was written. See who else manages it, then run again"
    )


def _token_from(path):
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as unreadable:
        raise ConsulError(f"token_file: {unreadable}") from unreadable
