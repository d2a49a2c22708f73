# Copyright (c) 2026 the fleetmesh authors
# SPDX-License-Identifier: Apache-2.0
"""Config entries compared by meaning: what was written equals what Consul gives back.

Consul adds indexes, hashes, empty structures and defaults, rewrites durations ("5000ms" comes
back as "5s", in places as nanoseconds), protocols and methods, and reads keys in either spelling
(`ConnectTimeout`, `connect_timeout`).
"""

from __future__ import annotations

import json
import re

# In the order in which they are written: an entry stands on kinds before its own. `service-router`
# and `service-splitter` need the protocol of service-defaults, and subsets of service-resolver.
KINDS = (
    "proxy-defaults",
    "mesh",
    "service-defaults",
    "service-resolver",
    "service-splitter",
    "service-router",
    "ingress-gateway",
    "terminating-gateway",
    "jwt-provider",
    "exported-services",
)
COMPUTED = {"createindex", "modifyindex", "hash", "status", "precedence"}
LEGACY = {"legacyid", "legacymeta", "legacycreatetime", "legacyupdatetime"}
DURATIONS = {
    "baseejectiontime", "baseinterval", "cacheduration", "connecttimeout", "idletimeout",
    "interval", "maxinterval", "requesttimeout", "ttl",
}  # fmt: skip
# Values under these keys are the operator's own: no key, zero or null in them is ours to judge.
OPAQUE = {"arguments", "config", "meta"}
# Keys whose own keys are names; an empty value under a name says something (`Subsets: {v1: {}}`).
MAPS = {"add", "failover", "set", "subsets"}
# Optional numbers and switches, where zero is not the same as absent.
OPTIONAL = {
    "baseejectiontime", "enforcingconsecutive5xx", "maxconcurrentrequests", "maxconnections",
    "maxejectionpercent", "maxpendingrequests",
}  # fmt: skip
# Tenancy of Consul's open-source edition is always `default`; it comes back in places only.
DEFAULTS = {"namespace": "default", "partition": "default"}
KIND_DEFAULTS = {
    "ingress-gateway": {"protocol": "tcp"},
    "service-intentions": {"type": "consul"},
    "jwt-provider": {"clockskewseconds": 30},
}
UNIT = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6}
UNIT.update(s=10**9, m=60 * 10**9, h=3600 * 10**9)
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


def same(one, other):
    """Whether two entries (dicts, or None for absent) mean the same."""
    return _comparable(one) == _comparable(other)


def tidy(entry):
    """The entry for people: without indexes, hashes and empty structures; {} for None."""
    if entry is None:
        return {}
    return _walk(entry, entry.get("Kind", ""), folded=False)


def nanoseconds(text):
    """A Go duration ("1m30s") in nanoseconds, None when it is none."""
    if text == "0":
        return 0
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return round(sum(float(number) * UNIT[unit] for number, unit in parts))


def go_duration(count):
    """Nanoseconds as Go writes them, coarsest unit first: 90 000 000 000 → "1m30s"."""
    if count < 10**9:
        unit = next(unit for unit in ("ms", "us", "ns") if count >= UNIT[unit] or unit == "ns")
        return f"{count / UNIT[unit]:g}{unit}"
    minutes, rest = divmod(count, UNIT["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / UNIT['s']:.9f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds


def opaque(entry):
    """(key, value) of the entry's maps that Consul stores as they are."""
    return [(key, value) for key, value in entry.items() if key.lower() in OPAQUE]


def nulls(value, path=""):
    """Paths of null values. Consul 1.8's servers end in a panic on one inside an opaque map."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nulls(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nulls(item, f"{path}[{index}]")
    elif value is None:
        yield path


def _comparable(entry):
    if entry is None:
        return None
    plain = _walk(entry, entry.get("Kind", ""), folded=True)
    if entry.get("Kind") == "service-intentions":
        plain.get("sources", []).sort(key=lambda source: json.dumps(source, sort_keys=True))
    return json.dumps(plain, sort_keys=True)


def _walk(value, kind, folded, parent=""):
    if isinstance(value, dict):
        if parent in OPAQUE:
            return _numbers(value)
        kept = {}
        for key, item in value.items():
            name = key.replace("_", "").lower()
            if parent in MAPS:
                kept[key] = _walk(item, kind, folded)
            elif name not in COMPUTED and name not in LEGACY:
                item = _walk(item, kind, folded, name)
                if not _says_nothing(name, item, kind):
                    kept[name if folded else key] = item
        return kept
    if isinstance(value, list):
        return [_walk(item, kind, folded, parent) for item in value]
    return _scalar(_numbers(value), folded, parent)


def _scalar(value, folded, key):
    if key in DURATIONS and not isinstance(value, bool):
        count = nanoseconds(value) if isinstance(value, str) else value
        if isinstance(count, int) and count >= 0:
            return count if folded or not count else go_duration(count)
    if isinstance(value, str):
        if key == "protocol":
            return value.lower()
        if key == "methods":
            return value.upper()
    return value


def _says_nothing(key, value, kind):
    if value is None or value in ("", [], {}):
        return True
    if not value:
        return key not in OPTIONAL
    return value == KIND_DEFAULTS.get(kind, {}).get(key, DEFAULTS.get(key))


def _numbers(value):
    """1.0 and 1 are one number in JSON, and Consul gives back the shorter."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
