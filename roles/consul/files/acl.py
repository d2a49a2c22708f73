"""Make policies in Consul, each with one token, and tell the tokens.

Standard input: {"url", "token" (a management token), "check" (change nothing), "wanted": [{"name",
"description", "rules"}], "keep": (former rules for services stay, for those may still have to be
taken out of the catalog)}. Standard output: {"changed": [name…], "tokens": {name: secret}}; a token
that is still to be made is missing in check mode.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from typing import Any

TIMEOUT = 15


class Consul:
    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"X-Consul-Token": token}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        # The address is the operator's own setting.
        request = urllib.request.Request(  # noqa: S310
            self._url + path, data, self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace").strip()
            sys.exit(f"Consul answered {error.code} to {method} {path}: {said}")
        except OSError as error:
            sys.exit(f"Consul cannot be asked at {self._url}: {error}")


FORMER = re.compile(r'^service "[^"]+" \{ policy = "write" \}$', re.MULTILINE)


def with_former(rules: str, held: str) -> str:
    former = [rule for rule in FORMER.findall(held) if rule not in rules]
    return rules + "".join(f"{rule}\n" for rule in former)


def settle_policy(
    consul: Consul, wanted: dict[str, str], check: bool, keep: bool
) -> tuple[str, bool]:
    """The policy's ID, empty when it is still to be made, and whether it was not as wanted."""
    body = {
        "Name": wanted["name"],
        "Description": wanted["description"],
        "Rules": wanted["rules"],
    }
    for listed in consul.call("GET", "/v1/acl/policies"):
        if listed["Name"] != wanted["name"]:
            continue
        path = f"/v1/acl/policy/{listed['ID']}"
        held = consul.call("GET", path)
        if keep:
            body["Rules"] = with_former(wanted["rules"], held.get("Rules", ""))
        differs = any(held.get(key) != value for key, value in body.items())
        if differs and not check:
            consul.call("PUT", path, {"ID": listed["ID"], **body})
        return listed["ID"], differs
    return ("" if check else consul.call("PUT", "/v1/acl/policy", body)["ID"]), True


def settle_token(
    consul: Consul, policy: str, wanted: dict[str, str], check: bool
) -> tuple[str, bool]:
    """The policy's newest token, empty when it is still to be made, and whether it was made."""
    found = consul.call("GET", f"/v1/acl/tokens?policy={policy}") if policy else []
    if found:
        newest = max(found, key=lambda token: token["CreateIndex"])
        return consul.call("GET", f"/v1/acl/token/{newest['AccessorID']}")["SecretID"], False
    if check:
        return "", True
    body = {"Description": wanted["description"], "Policies": [{"ID": policy}]}
    return consul.call("PUT", "/v1/acl/token", body)["SecretID"], True


def main() -> None:
    asked = json.load(sys.stdin)
    consul = Consul(asked["url"], asked["token"])
    changed, tokens = [], {}
    for wanted in asked["wanted"]:
        policy, policy_changed = settle_policy(consul, wanted, asked["check"], asked["keep"])
        token, token_made = settle_token(consul, policy, wanted, asked["check"])
        if policy_changed or token_made:
            changed.append(wanted["name"])
        if token:
            tokens[wanted["name"]] = token
    print(json.dumps({"changed": changed, "tokens": tokens}))


if __name__ == "__main__":
    main()
