# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Policy files as one policy, in the order in which Consul takes it."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.fleetmesh.mesh.plugins.module_utils.entries import KINDS, same
from ansible_collections.fleetmesh.mesh.plugins.module_utils.intentions import KIND as INTENTIONS
from ansible_collections.fleetmesh.mesh.plugins.module_utils.intentions import equal

MARK = {"managed-by": "fleetmesh"}
# Deleting one of these never breaks another entry: a service without it has its default.
STANDS_ALONE = (
    "service-router",
    "service-splitter",
    "ingress-gateway",
    "terminating-gateway",
    "exported-services",
)


def policy_merge(documents):
    """Parsed files → {config_entries, intentions}, marked as ours and sorted for writing.

    Entries come after the kinds that they stand on. Of intentions the exact ones come first, so
    that a call which they allow is never without them below a new `* => *` deny.
    """
    entries, intentions = [], []
    for document in documents:
        document = document or {}
        if "Kind" in document:
            entries.append(document)
        entries += document.get("config_entries") or []
        intentions += document.get("intentions") or []
    _once([*map(_entry_name, entries), *map(_intention_name, intentions)])
    return {
        "config_entries": [
            {**entry, "Meta": {**MARK, **(entry.get("Meta") or {})}}
            for entry in sorted(entries, key=_entry_rank)
        ],
        "intentions": [
            {"permissions": [], "description": "", "meta": MARK, **intention}
            for intention in sorted(intentions, key=_intention_rank)
        ],
    }


def policy_plan(policy, held, purge=False):
    """What is to be done so that Consul, which holds `held`, follows the policy.

    `write_*` differ or are missing. With `purge`, `delete_*` carry our mark and are named no
    more; `delete_first` can go before anything is written, `delete_last` when nothing written
    stands on it any more.
    """
    entries = {_entry_name(entry): entry for entry in held["config_entries"]}
    intentions = {_intention_name(intention): intention for intention in held["intentions"]}
    plan = {
        "write_config_entries": [
            entry
            for entry in policy["config_entries"]
            if not same(entries.pop(_entry_name(entry), None), entry)
        ],
        "write_intentions": [
            intention
            for intention in policy["intentions"]
            if not equal(intentions.pop(_intention_name(intention), None), intention)
        ],
        "delete_first": [],
        "delete_intentions": [],
        "delete_last": [],
    }
    if not purge:
        return plan
    for entry in sorted(entries.values(), key=_entry_rank, reverse=True):
        if _is_ours(entry.get("Meta")):
            first = entry["Kind"] in STANDS_ALONE
            plan["delete_first" if first else "delete_last"].append(entry)
    whole = {entry["Name"] for entry in policy["config_entries"] if entry["Kind"] == INTENTIONS}
    for intention in sorted(intentions.values(), key=_intention_rank, reverse=True):
        ours = _is_ours(intention.get("meta")) or _is_ours(intention.get("entry_meta"))
        if ours and intention["destination"] not in whole:
            plan["delete_intentions"].append(intention)
    return plan


def _is_ours(meta):
    return all((meta or {}).get(key) == value for key, value in MARK.items())


def _entry_name(entry):
    return f"{entry['Kind']}/{entry.get('Name') or 'mesh'}"


def _intention_name(intention):
    return f"intention {intention['source']} => {intention['destination']}"


def _entry_rank(entry):
    kind = entry["Kind"]
    rank = KINDS.index(kind) if kind in KINDS else len(KINDS)
    return rank, kind, entry.get("Name") or ""


def _intention_rank(intention):
    source, destination = intention["source"], intention["destination"]
    return (destination == "*", source == "*", destination, source)


def _once(names):
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AnsibleFilterError(f"the policy files say more than once: {', '.join(twice)}")


class FilterModule:
    """Filters of the role fleetmesh_policy."""

    def filters(self):
        return {"policy_merge": policy_merge, "policy_plan": policy_plan}
