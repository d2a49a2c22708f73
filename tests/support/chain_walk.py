"""An independent walk over a compiled discovery chain, written from the contract: which targets a
request may reach. It reads Consul's JSON as it is, and shares no code with the mesh.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

Outcome = tuple[int | None, frozenset[tuple[str, str]]]
"""The router's rule that took the request, None without a router or for its last rule, and the
(service, subset) pairs with any weight."""


def walk(chain: dict[str, Any], method: str, url: str, headers: dict[str, str]) -> Outcome:
    """`headers` have names in lower case."""
    key = chain["StartNode"]
    taken = None
    node = chain["Nodes"][key]
    if node["Type"] == "router":
        for index, rule in enumerate(node["Routes"]):
            http = (rule["Definition"].get("Match") or {}).get("HTTP") or {}
            if fulfils(http, method, url, headers):
                taken, key = index, rule["NextNode"]
                break
        if taken == len(node["Routes"]) - 1:
            taken = None
    return taken, frozenset(ends(chain, key))


def ends(chain: dict[str, Any], key: str) -> list[tuple[str, str]]:
    node = chain["Nodes"][key]
    if node["Type"] == "resolver":
        target = chain["Targets"][node["Resolver"]["Target"]]
        return [(target["Service"], target.get("ServiceSubset", ""))]
    found = []
    for split in node["Splits"]:
        if split.get("Weight", 0) > 0:
            found += ends(chain, split["NextNode"])
    return found


def fulfils(http: dict[str, Any], method: str, url: str, headers: dict[str, str]) -> bool:
    """All criteria together; methods one of them. Regexes are for the whole."""
    parts = urlsplit(url)
    if "PathExact" in http and parts.path != http["PathExact"]:
        return False
    if "PathPrefix" in http and not parts.path.startswith(http["PathPrefix"]):
        return False
    if "PathRegex" in http and not re.fullmatch(http["PathRegex"], parts.path):
        return False
    if http.get("Methods") and method not in http["Methods"]:
        return False
    parameters: dict[str, str] = {}
    for pair in parts.query.split("&") if parts.query else []:
        name, _, value = pair.partition("=")
        parameters.setdefault(name, value)
    for wanted in http.get("QueryParam") or []:
        if not holds(wanted, parameters.get(wanted["Name"])):
            return False
    return all(
        header(wanted, headers.get(wanted["Name"].lower())) for wanted in http.get("Header") or []
    )


def header(wanted: dict[str, Any], value: str | None) -> bool:
    """Without the header nothing holds, save that it should not be there."""
    inverted = bool(wanted.get("Invert"))
    if value is None:
        return bool(wanted.get("Present")) and inverted
    return holds(wanted, value) != inverted


def holds(wanted: dict[str, Any], value: str | None) -> bool:
    if value is None:
        return False
    if wanted.get("Present"):
        return True
    if wanted.get("Exact"):
        return value == str(wanted["Exact"])
    if wanted.get("Prefix"):
        return value.startswith(str(wanted["Prefix"]))
    if wanted.get("Suffix"):
        return value.endswith(str(wanted["Suffix"]))
    return re.fullmatch(wanted["Regex"], value) is not None
