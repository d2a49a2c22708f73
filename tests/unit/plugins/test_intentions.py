"""Intentions on Consul from 1.9 on: sources of one entry per destination.

The double behaves as the recorded 1.21.4 does; the generation before has a real server in
tests/integration.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.support.collection import load

consul = load("module_utils.consul")
intentions = load("module_utils.intentions")
module = load("modules.fleetmesh_intention")


class Newer:
    """Config entries with compare-and-set, kept in memory."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.index = 10
        for entry in entries:
            self._put(entry)

    def read_entry(self, kind: str, name: str) -> dict[str, Any] | None:
        assert kind == "service-intentions"
        return copy.deepcopy(self.entries.get(name))

    def list_entries(self, kind: str) -> list[dict[str, Any]]:
        return [copy.deepcopy(entry) for entry in self.entries.values()]

    def write_entry(self, entry: dict[str, Any], cas: int) -> None:
        held = self.entries.get(entry["Name"], {})
        if held.get("ModifyIndex", 0) != cas:
            raise consul.ConflictError(entry["Name"])
        assert entry["Sources"], "Consul refuses an entry without sources"
        assert not [key for key in entry if key in ("CreateIndex", "ModifyIndex", "Hash")]
        assert not [source for source in entry["Sources"] if "Precedence" in source]
        self._put(entry)

    def delete_entry(self, kind: str, name: str, cas: int) -> None:
        if self.entries[name]["ModifyIndex"] != cas:
            raise consul.ConflictError(name)
        del self.entries[name]

    def _put(self, entry: dict[str, Any]) -> None:
        self.index += 1
        held = copy.deepcopy(entry)
        held |= {"Kind": "service-intentions", "CreateIndex": 1, "ModifyIndex": self.index}
        for source in held["Sources"]:
            source |= {"Precedence": 9, "Type": "consul"}
        self.entries[held["Name"]] = held


def wanted(source: str, action: str | None = "allow", **keys: Any) -> dict[str, Any]:
    plain = {"permissions": [], "description": "", "meta": {"managed-by": "fleetmesh"}}
    return {"source": source, "destination": "api", "action": action, **plain, **keys}


def converge(server: Newer, source: str, want: dict[str, Any] | None, check: bool = False) -> bool:
    store = intentions.store_of(server, "api")
    assert isinstance(store, intentions.EntryStore)
    before, after = module.converge(store, source, "api", want, check)
    assert intentions.equal(after, want)
    return not intentions.equal(before, after)


def test_the_first_intention_makes_the_entry_and_marks_it() -> None:
    server = Newer()
    assert converge(server, "web", wanted("web"))
    assert server.entries["api"]["Meta"] == {"managed-by": "fleetmesh"}
    assert not converge(server, "web", wanted("web"))


def test_other_sources_stay_and_a_foreign_entry_is_not_marked() -> None:
    peer = {"Name": "web", "Peer": "dc2", "Action": "deny"}
    legacy = {"Name": "old", "Action": "allow", "LegacyID": "1"}
    server = Newer({"Name": "api", "Sources": [peer, legacy], "JWT": {"Providers": []}})
    assert converge(server, "web", wanted("web"))
    entry = server.entries["api"]
    assert [source["Name"] for source in entry["Sources"]] == ["web", "old", "web"]
    assert entry["Sources"][0]["Peer"] == "dc2"
    assert "LegacyID" not in entry["Sources"][1]
    assert "Meta" not in entry
    assert entry["JWT"] == {"Providers": []}


def test_permissions_replace_the_action_and_are_compared() -> None:
    server = Newer()
    rules = [{"Action": "allow", "HTTP": {"PathPrefix": "/", "Methods": ["GET"]}}]
    converge(server, "web", wanted("web"))
    assert converge(server, "web", wanted("web", action=None, permissions=rules))
    (source,) = server.entries["api"]["Sources"]
    assert source["Permissions"] == rules
    assert "Action" not in source
    assert not converge(server, "web", wanted("web", action=None, permissions=rules))
    assert converge(server, "web", wanted("web", "deny"))


def test_the_last_source_takes_the_entry_with_it() -> None:
    server = Newer()
    converge(server, "web", wanted("web"))
    converge(server, "cart", wanted("cart"))
    assert converge(server, "web", None)
    assert [source["Name"] for source in server.entries["api"]["Sources"]] == ["cart"]
    assert converge(server, "cart", None)
    assert server.entries == {}
    assert not converge(server, "cart", None)


def test_a_write_in_between_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Newer({"Name": "api", "Sources": [{"Name": "cart", "Action": "deny"}]})
    read = server.read_entry

    def read_then_lose(kind: str, name: str) -> Any:
        found = read(kind, name)
        server._put({"Name": "api", "Sources": [{"Name": "late", "Action": "deny"}]})
        return found

    store = intentions.EntryStore(server)
    monkeypatch.setattr(server, "read_entry", read_then_lose)
    with pytest.raises(consul.ConflictError):
        store.write(wanted("web"))
    monkeypatch.undo()
    assert [source["Name"] for source in server.entries["api"]["Sources"]] == ["late"]


def test_all_sources_are_listed_with_their_entrys_meta() -> None:
    server = Newer()
    converge(server, "web", wanted("web"))
    (only,) = intentions.store_of(server, "*").list()
    assert (only["source"], only["destination"], only["action"]) == ("web", "api", "allow")
    assert only["meta"] is None
    assert only["entry_meta"] == {"managed-by": "fleetmesh"}
