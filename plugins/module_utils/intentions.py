# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Intentions of both generations of Consul behind one interface.

Before 1.9 an intention is an object with an ID and no compare-and-set: what was written is read
back. From 1.9 on it is one of the `Sources` of its destination's `service-intentions` entry, and
the write is a compare-and-set on that entry, which keeps the other sources as they are.

An intention here is a dict: `source`, `destination`, `action` or `permissions`, `description`,
`meta`.
"""

from __future__ import annotations

from ansible_collections.fleetmesh.mesh.plugins.module_utils.consul import (
    ConflictError,
    ConsulError,
)
from ansible_collections.fleetmesh.mesh.plugins.module_utils.entries import same, tidy

KIND = "service-intentions"
LEGACY_KEYS = ("Precedence", "LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime")


def store_of(consul, destination):
    """The store that this server has; told by whether it knows the kind."""
    try:
        consul.read_entry(KIND, destination)
    except ConsulError as error:
        if "invalid config entry kind" in str(error):
            return ObjectStore(consul)
        raise
    return EntryStore(consul)


class ObjectStore:
    """Consul 1.8: `/v1/connect/intentions` and IDs."""

    def __init__(self, consul):
        self._consul = consul

    def read(self, source, destination):
        found = self._object(source, destination)
        return found and _from_object(found)

    def list(self):
        path = "/v1/connect/intentions"
        return [_from_object(item) for item in self._consul.call("GET", path, "listing intentions")]

    def write(self, intention):
        name = f"{intention['source']} => {intention['destination']}"
        if intention.get("permissions"):
            raise ConsulError(
                f"{name}: permissions need Consul 1.9 or newer; this server knows action only"
            )
        body = {
            "SourceName": intention["source"],
            "DestinationName": intention["destination"],
            "SourceType": "consul",
            "Action": intention["action"],
            "Description": intention["description"],
            "Meta": intention["meta"],
        }
        found = self._object(intention["source"], intention["destination"])
        doing = f"writing intention {name}"
        try:
            if found is None:
                self._consul.call("POST", "/v1/connect/intentions", doing, body=body)
            else:
                path = f"/v1/connect/intentions/{found['ID']}"
                self._consul.call("PUT", path, doing, body=body)
        except ConsulError as error:
            if "duplicate intention" in str(error) or "non-existent intention" in str(error):
                raise ConflictError(doing) from error
            raise
        if not equal(self.read(intention["source"], intention["destination"]), intention):
            raise ConflictError(doing)

    def delete(self, source, destination):
        found = self._object(source, destination)
        if found is None:
            return
        doing = f"deleting intention {source} => {destination}"
        try:
            self._consul.call("DELETE", f"/v1/connect/intentions/{found['ID']}", doing)
        except ConsulError as error:
            if "non-existent intention" in str(error):
                raise ConflictError(doing) from error
            raise

    def _object(self, source, destination):
        """Read through `match`, which refuses a token without rights; the list would answer []."""
        doing = f"reading intention {source} => {destination}"
        query = {"by": "destination", "name": destination}
        answer = self._consul.call("GET", "/v1/connect/intentions/match", doing, query) or {}
        for item in answer.get(destination) or []:
            if (item["SourceName"], item["DestinationName"]) == (source, destination):
                return item
        return None


class EntryStore:
    """Consul from 1.9 on: sources of `service-intentions` entries."""

    def __init__(self, consul):
        self._consul = consul

    def read(self, source, destination):
        entry = self._consul.read_entry(KIND, destination)
        for item in _sources(entry):
            if _is(item, source):
                return _from_source(item, entry)
        return None

    def list(self):
        entries = self._consul.list_entries(KIND)
        return [_from_source(item, entry) for entry in entries for item in _sources(entry)]

    def write(self, intention):
        source, destination = intention["source"], intention["destination"]
        entry = self._consul.read_entry(KIND, destination)
        item = {"Name": source, "Type": "consul", "Description": intention["description"]}
        if intention.get("permissions"):
            item["Permissions"] = intention["permissions"]
        else:
            item["Action"] = intention["action"]
        others = [other for other in _sources(entry) if not _is(other, source)]
        changed = self._entry(entry, destination, [*others, item])
        if entry is None:
            changed["Meta"] = intention["meta"]
        self._consul.write_entry(changed, (entry or {}).get("ModifyIndex", 0))

    def delete(self, source, destination):
        entry = self._consul.read_entry(KIND, destination)
        others = [item for item in _sources(entry) if not _is(item, source)]
        if entry is None or len(others) == len(_sources(entry)):
            return
        if others:
            changed = self._entry(entry, destination, others)
            self._consul.write_entry(changed, entry["ModifyIndex"])
        else:
            self._consul.delete_entry(KIND, destination, entry["ModifyIndex"])

    @staticmethod
    def _entry(entry, destination, sources):
        """`entry` with other sources; what the server computes is left out."""
        kept = {
            key: value
            for key, value in (entry or {}).items()
            if key not in ("CreateIndex", "ModifyIndex", "Hash")
        }
        bare = [
            {key: value for key, value in item.items() if key not in LEGACY_KEYS}
            for item in sources
        ]
        return {**kept, "Kind": KIND, "Name": destination, "Sources": bare}


def equal(found, wanted):
    """Whether Consul's intention is the wanted one (None: absent).

    `meta` counts where Consul keeps it for the single intention, which is before 1.9.
    """
    if found is None or wanted is None:
        return found is wanted
    if found["meta"] is not None and found["meta"] != wanted["meta"]:
        return False
    return same(_judged(found), _judged(wanted))


def shown(intention):
    """The intention for people."""
    if intention is None:
        return ""
    return {key: value for key, value in tidy(intention).items() if key != "entry_meta"}


def _judged(intention):
    keys = ("source", "destination", "action", "permissions", "description")
    return {key: intention.get(key) for key in keys}


def _sources(entry):
    return (entry or {}).get("Sources") or []


def _is(item, source):
    """Whether this source is the plain local service of that name, not a peer's or another's."""
    elsewhere = item.get("Peer") or item.get("SamenessGroup")
    partition = item.get("Partition") or "default"
    namespace = item.get("Namespace") or "default"
    return (
        item.get("Name") == source
        and not elsewhere
        and (partition, namespace) == ("default", "default")
    )


def _from_object(item):
    return {
        "source": item["SourceName"],
        "destination": item["DestinationName"],
        "action": item.get("Action") or None,
        "permissions": [],
        "description": item.get("Description") or "",
        "meta": item.get("Meta") or {},
    }


def _from_source(item, entry):
    return {
        "source": item["Name"],
        "destination": entry["Name"],
        "action": item.get("Action") or None,
        "permissions": item.get("Permissions") or [],
        "description": item.get("Description") or "",
        "meta": None,
        "entry_meta": entry.get("Meta") or {},
    }
