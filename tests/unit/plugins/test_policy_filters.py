"""Policy files as one policy, in the order in which Consul takes it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from tests.support.collection import load

policy = load("filter.policy")
MARKED = {"Meta": {"managed-by": "fleetmesh"}}


def entry(kind: str, name: str, **keys: Any) -> dict[str, Any]:
    return {"Kind": kind, "Name": name, **keys}


def intention(source: str, destination: str, action: str = "allow", **keys: Any) -> dict[str, Any]:
    return {"source": source, "destination": destination, "action": action, **keys}


def held(*entries: dict[str, Any], intentions: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"config_entries": list(entries), "intentions": list(intentions)}


def names(items: list[dict[str, Any]]) -> list[str]:
    return [f"{item['Kind']}/{item.get('Name')}" for item in items]


def pairs(items: list[dict[str, Any]]) -> list[str]:
    return [f"{item['source']}>{item['destination']}" for item in items]


def test_entries_come_after_what_they_stand_on() -> None:
    merged = policy.policy_merge(
        [
            {
                "config_entries": [
                    entry("service-intentions", "api"),
                    entry("service-router", "api"),
                ]
            },
            entry("service-splitter", "api"),
            None,
            {"config_entries": [entry("service-resolver", "b"), entry("service-resolver", "a")]},
            {"config_entries": [entry("service-defaults", "api"), {"Kind": "mesh"}]},
            {
                "config_entries": [
                    entry("ingress-gateway", "edge"),
                    entry("proxy-defaults", "global"),
                ]
            },
        ]
    )
    assert names(merged["config_entries"]) == [
        "proxy-defaults/global",
        "mesh/None",
        "service-defaults/api",
        "service-resolver/a",
        "service-resolver/b",
        "service-splitter/api",
        "service-router/api",
        "ingress-gateway/edge",
        "service-intentions/api",
    ]


def test_exact_intentions_come_before_wildcards() -> None:
    rules = [
        intention("*", "*", "deny"),
        intention("web", "*"),
        intention("*", "api"),
        intention("web", "api"),
    ]
    merged = policy.policy_merge([{"intentions": rules}])
    assert pairs(merged["intentions"]) == ["web>api", "*>api", "web>*", "*>*"]


def test_everything_is_marked_and_keeps_its_own_meta() -> None:
    rules = [intention("a", "b")]
    entries = [entry("service-defaults", "a", Meta={"owner": "shop"})]
    merged = policy.policy_merge([{"config_entries": entries, "intentions": rules}])
    meta = merged["config_entries"][0]["Meta"]
    assert meta == {"owner": "shop", "managed-by": "fleetmesh"}
    assert merged["intentions"][0]["meta"] == {"managed-by": "fleetmesh"}


def test_said_twice_is_an_error_that_names_it() -> None:
    twice = {
        "config_entries": [entry("service-defaults", "api")],
        "intentions": [intention("a", "b")],
    }
    with pytest.raises(AnsibleFilterError, match=r"intention a => b, service-defaults/api"):
        policy.policy_merge([twice, twice])


def test_the_plan_writes_only_what_differs() -> None:
    merged = policy.policy_merge(
        [
            {
                "config_entries": [
                    entry("service-defaults", "api", Protocol="http"),
                    entry("service-defaults", "web", Protocol="http"),
                    entry("service-defaults", "new", Protocol="http"),
                ],
                "intentions": [intention("a", "b"), intention("b", "c"), intention("c", "d")],
            }
        ]
    )
    mark = {"meta": {"managed-by": "fleetmesh"}, "description": ""}
    plan = policy.policy_plan(
        merged,
        held(
            entry("service-defaults", "api", Protocol="http", **MARKED),
            entry("service-defaults", "web", Protocol="tcp", **MARKED),
            intentions=(intention("a", "b", **mark), intention("b", "c", "deny", **mark)),
        ),
    )
    assert names(plan["write_config_entries"]) == ["service-defaults/new", "service-defaults/web"]
    assert pairs(plan["write_intentions"]) == ["b>c", "c>d"]


def test_purging_takes_what_is_ours_and_nothing_else() -> None:
    there = held(
        entry("proxy-defaults", "global", **MARKED),
        entry("service-defaults", "kept", **MARKED),
        entry("service-resolver", "old", **MARKED),
        entry("service-splitter", "old", **MARKED),
        entry("service-router", "old", **MARKED),
        entry("service-router", "foreign", Meta={"managed-by": "somebody"}),
        entry("service-router", "bare"),
        intentions=(
            intention("a", "b", meta={"managed-by": "fleetmesh"}, description=""),
            intention("*", "*", meta={"managed-by": "fleetmesh"}, description=""),
            intention("x", "y", meta={}, description=""),
            intention("n", "m", meta=None, entry_meta={"managed-by": "fleetmesh"}),
        ),
    )
    merged = policy.policy_merge([{"config_entries": [entry("service-defaults", "kept")]}])
    plan = policy.policy_plan(merged, there, purge=True)
    assert names(plan["delete_first"]) == ["service-router/old", "service-splitter/old"]
    assert names(plan["delete_last"]) == ["service-resolver/old", "proxy-defaults/global"]
    assert pairs(plan["delete_intentions"]) == ["*>*", "n>m", "a>b"]
    spared = policy.policy_plan(merged, there)
    assert not [key for key in spared if key.startswith("delete") and spared[key]]


def test_sources_of_a_declared_entry_are_not_purged_one_by_one() -> None:
    """Someone who writes the whole service-intentions entry has named its sources there."""
    merged = policy.policy_merge([entry("service-intentions", "api", Sources=[{"Name": "web"}])])
    source = intention("web", "api", meta=None, entry_meta={"managed-by": "fleetmesh"})
    plan = policy.policy_plan(merged, held(intentions=(source,)), purge=True)
    assert plan["delete_intentions"] == []
