"""Config entries compared by meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.collection import ROOT, load

entries = load("module_utils.entries")
RECORDED = ROOT.parent / "shared/consul-api"


def recorded_pairs() -> Iterator[Any]:
    """(what was written, what Consul listed afterwards), where nothing was written over it."""
    for written in sorted(RECORDED.glob("*/config-write-*.json")):
        call = json.loads(written.read_text())
        entry = call["request"]["body"]
        if call["status"] != 200 or "cas" in call["request"]["path"]:
            continue
        listing = written.parent / f"config-list-{entry['Kind']}.json"
        for held in json.loads(listing.read_text())["body"] if listing.exists() else ():
            untouched = held["CreateIndex"] == held["ModifyIndex"]
            if held.get("Name") == entry.get("Name") and untouched:
                yield pytest.param(entry, held, id=f"{written.parent.name}-{written.stem[13:]}")


@pytest.mark.skipif(not RECORDED.exists(), reason="no recorded Consul answers beside this checkout")
@pytest.mark.parametrize(("written", "held"), list(recorded_pairs()))
def test_what_consul_gives_back_is_what_was_written(
    written: dict[str, Any], held: dict[str, Any]
) -> None:
    assert entries.same(written, held)


def splitter(**split: Any) -> dict[str, Any]:
    return {"Kind": "service-splitter", "Name": "api", "Splits": [split]}


def resolver(**keys: Any) -> dict[str, Any]:
    return {"Kind": "service-resolver", "Name": "api", **keys}


def defaults(**keys: Any) -> dict[str, Any]:
    return {"Kind": "service-defaults", "Name": "api", **keys}


def proxy(**config: Any) -> dict[str, Any]:
    return {"Kind": "proxy-defaults", "Name": "global", "Config": config}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (resolver(ConnectTimeout="5s"), resolver(ConnectTimeout="5000ms")),
        (resolver(ConnectTimeout="90s"), resolver(ConnectTimeout=90 * 10**9)),
        (resolver(ConnectTimeout="0s"), resolver()),
        (resolver(ConnectTimeout="3s"), resolver(connect_timeout="3s")),
        (resolver(Subsets={}), resolver()),
        (resolver(Namespace="default"), resolver(CreateIndex=3, ModifyIndex=9, Hash=1)),
        (splitter(Weight=50), splitter(Weight=50.0, Service="")),
        (splitter(Weight=0, Service="a"), splitter(Service="a")),
        (defaults(Protocol="HTTP"), defaults(Protocol="http", MeshGateway={}, Expose={})),
        (proxy(a=1.0), proxy(a=1)),
        (
            {"Kind": "service-intentions", "Name": "a", "Sources": [{"Name": "b"}, {"Name": "c"}]},
            {
                "Kind": "service-intentions",
                "Name": "a",
                "Sources": [
                    {"Name": "c", "Precedence": 9, "Type": "consul"},
                    {"Name": "b", "Precedence": 9, "Type": "consul"},
                ],
            },
        ),
        (None, None),
    ],
)
def test_spellings_of_the_same(one: Any, other: Any) -> None:
    assert entries.same(one, other)
    assert entries.same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (resolver(ConnectTimeout="5s"), resolver(ConnectTimeout="5m")),
        (resolver(ConnectTimeout="5s"), resolver()),
        (resolver(Subsets={"v1": {}}), resolver(Subsets={})),
        (resolver(Subsets={"v_1": {}}), resolver(Subsets={"v1": {}})),
        (resolver(Subsets={"v1": {}}), resolver(Subsets={"V1": {}})),
        (splitter(Weight=50), splitter(Weight=50.5)),
        (defaults(Meta={"a": ""}), defaults(Meta={})),
        (defaults(Meta={"hash": "1"}), defaults()),
        (proxy(a=0), proxy()),
        (proxy(a=1), proxy(a=True)),
        (proxy(connect_timeout="5s"), proxy(connect_timeout="5000ms")),
        (proxy(some_key=1), proxy(somekey=1)),
        (
            defaults(UpstreamConfig={"Defaults": {"Limits": {"MaxConnections": 0}}}),
            defaults(),
        ),
        (
            {"Kind": "service-router", "Name": "a", "Routes": [{}]},
            {"Kind": "service-router", "Name": "a", "Routes": []},
        ),
        (defaults(), None),
    ],
)
def test_differences_that_count(one: Any, other: Any) -> None:
    assert not entries.same(one, other)
    assert not entries.same(other, one)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5s", 5 * 10**9),
        ("1m30s", 90 * 10**9),
        ("1.5s", 1_500_000_000),
        ("250ms", 250_000_000),
        ("100ns", 100),
        ("1h0m5s", 3605 * 10**9),
        ("2h0m0s", 7200 * 10**9),
    ],
)
def test_durations_as_go_writes_them(text: str, count: int) -> None:
    assert entries.nanoseconds(text) == count
    assert entries.go_duration(count) == text


@pytest.mark.parametrize("text", ["5", "s", "5 s", "5S", "five", "-5s", ""])
def test_what_is_no_duration(text: str) -> None:
    assert entries.nanoseconds(text) is None


def test_the_entry_for_people_has_no_indexes_and_one_spelling_of_durations() -> None:
    held = resolver(ConnectTimeout=5 * 10**9, Subsets={"v1": {}}, ModifyIndex=4, Redirect=None)
    assert entries.tidy(held) == resolver(ConnectTimeout="5s", Subsets={"v1": {}})
    assert entries.tidy(None) == {}


def test_nulls_are_found_at_their_path() -> None:
    config = {"a": {"b": [1, None]}, "c": None, "d": 0}
    assert list(entries.nulls(config)) == ["a.b[1]", "c"]
