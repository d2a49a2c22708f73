"""The collection's modules against a real Consul 1.8.7 server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.collection import load, run_module
from tests.support.consul import ConsulServer

pytestmark = pytest.mark.consul

Run = Callable[..., dict[str, Any]]

ENTRIES: list[dict[str, Any]] = [
    {
        "Kind": "proxy-defaults",
        "Name": "global",
        "Config": {"protocol": "http", "local_connect_timeout_ms": 0, "limits": {"a": 1.5}},
    },
    {"Kind": "service-defaults", "Name": "api", "Protocol": "HTTP", "Meta": {"owner": "shop"}},
    {"Kind": "service-defaults", "Name": "cart", "Protocol": "http", "Expose": {"Checks": False}},
    {
        "Kind": "service-resolver",
        "Name": "api",
        "ConnectTimeout": "5000ms",
        "DefaultSubset": "v1",
        "Subsets": {"v1": {}, "v2": {"Filter": 'Service.Meta.version == "v2"'}},
        "Failover": {"*": {"Service": "cart"}},
    },
    {
        "Kind": "service-splitter",
        "Name": "api",
        "Splits": [{"Weight": 99.5, "ServiceSubset": "v1"}, {"Weight": 0.5, "Service": "cart"}],
    },
    {
        "Kind": "service-router",
        "Name": "api",
        "Routes": [
            {
                "Match": {"HTTP": {"PathPrefix": "/cart", "Methods": ["get"]}},
                "Destination": {"Service": "cart", "RequestTimeout": "90s", "NumRetries": 2},
            },
            {"Match": {"HTTP": {"PathRegex": "/v[0-9]+/.*"}}},
        ],
    },
    {
        "Kind": "ingress-gateway",
        "Name": "edge",
        "Listeners": [
            {"Port": 8080, "Protocol": "http", "Services": [{"Name": "api", "Hosts": ["a.test"]}]}
        ],
    },
    {"Kind": "terminating-gateway", "Name": "egress", "Services": [{"Name": "billing"}]},
]


@pytest.fixture
def entry(consul_server: ConsulServer) -> Run:
    def run(kind: str, name: str, entry: dict[str, Any] | None = None, **more: Any) -> Any:
        return run_module(
            "fleetmesh_config_entry",
            consul_address=consul_server.address,
            kind=kind,
            name=name,
            entry=entry or {},
            **more,
        )

    return run


@pytest.fixture
def intention(consul_server: ConsulServer) -> Run:
    def run(source: str, destination: str, action: str | None = None, **more: Any) -> Any:
        if action:
            more["action"] = action
        return run_module(
            "fleetmesh_intention",
            consul_address=consul_server.address,
            source=source,
            destination=destination,
            **more,
        )

    return run


@pytest.fixture(autouse=True)
def nothing_left(consul_server: ConsulServer) -> Iterator[None]:
    yield
    for kind in reversed(load("module_utils.entries").KINDS[:8]):
        if kind != "mesh":
            for item in consul_server.get(f"/v1/config/{kind}"):
                consul_server.call("DELETE", f"/v1/config/{kind}/{item['Name']}")
    for item in consul_server.get("/v1/connect/intentions"):
        consul_server.call("DELETE", f"/v1/connect/intentions/{item['ID']}")


def test_every_kind_is_written_once(entry: Run) -> None:
    """The second run of the same entries changes nothing, whatever Consul made of them."""
    first = [entry(item["Kind"], item["Name"], item) for item in ENTRIES]
    assert [result["changed"] for result in first] == [True] * len(ENTRIES), first
    second = [entry(item["Kind"], item["Name"], item) for item in ENTRIES]
    assert [result["changed"] for result in second] == [False] * len(ENTRIES)
    assert [r["modify_index"] for r in second] == [r["modify_index"] for r in first]


def test_a_key_that_is_left_out_is_removed(entry: Run, consul_server: ConsulServer) -> None:
    entry("service-resolver", "api", {"ConnectTimeout": "3s", "Subsets": {"v1": {}}})
    result = entry("service-resolver", "api", {"Subsets": {"v1": {}}})
    assert result["changed"]
    assert "ConnectTimeout" not in consul_server.get("/v1/config/service-resolver/api")


def test_zero_in_opaque_config_is_a_value(entry: Run) -> None:
    entry("proxy-defaults", "global", {"Config": {"a": 1}})
    assert entry("proxy-defaults", "global", {"Config": {"a": 1, "b": 0}})["changed"]
    assert entry("proxy-defaults", "global", {"Config": {"a": True, "b": 0}})["changed"]


def test_check_mode_writes_nothing_and_shows_the_same_diff(
    entry: Run, consul_server: ConsulServer
) -> None:
    entry("service-defaults", "api", {"Protocol": "tcp"})
    checked = entry("service-defaults", "api", {"Protocol": "http"}, check=True)
    assert checked["changed"]
    assert consul_server.get("/v1/config/service-defaults/api")["Protocol"] == "tcp"
    done = entry("service-defaults", "api", {"Protocol": "http"})
    assert done["diff"] == checked["diff"]
    assert done["diff"]["before"] == {"Kind": "service-defaults", "Name": "api", "Protocol": "tcp"}
    assert done["diff"]["after"] == {"Kind": "service-defaults", "Name": "api", "Protocol": "http"}


def test_absent_deletes_once(entry: Run, consul_server: ConsulServer) -> None:
    entry("service-defaults", "api", {"Protocol": "http"})
    assert entry("service-defaults", "api", state="absent", check=True)["changed"]
    assert consul_server.get("/v1/config/service-defaults")
    gone = entry("service-defaults", "api", state="absent")
    assert gone["changed"]
    assert gone["diff"]["after"] == ""
    assert not consul_server.get("/v1/config/service-defaults")
    assert not entry("service-defaults", "api", state="absent")["changed"]


def test_somebody_elses_write_in_between_is_seen(
    entry: Run, consul_server: ConsulServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stale compare-and-set is refused; the second attempt starts from what is there now."""
    entry("service-defaults", "api", {"Protocol": "tcp"})
    consul = load("module_utils.consul").Consul
    read = consul.read_entry
    writes = iter(["grpc", "http2"])

    def read_then_lose(self: Any, kind: str, name: str) -> Any:
        found = read(self, kind, name)
        for protocol in writes:
            consul_server.put("/v1/config", {"Kind": kind, "Name": name, "Protocol": protocol})
            break
        return found

    monkeypatch.setattr(consul, "read_entry", read_then_lose)
    result = entry("service-defaults", "api", {"Protocol": "http"})
    assert result["changed"]
    assert result["diff"]["before"]["Protocol"] == "http2"
    assert consul_server.get("/v1/config/service-defaults/api")["Protocol"] == "http"


def test_endless_conflict_fails_clearly(
    entry: Run, consul_server: ConsulServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consul = load("module_utils.consul").Consul
    read = consul.read_entry
    attempts = 0

    def lose(self: Any, kind: str, name: str) -> Any:
        nonlocal attempts
        attempts += 1
        found = read(self, kind, name)
        other = {"Kind": kind, "Name": name, "Meta": {"attempt": str(attempts)}}
        consul_server.put("/v1/config", other)
        return found

    monkeypatch.setattr(consul, "read_entry", lose)
    result = entry("service-defaults", "api", {"Protocol": "http"})
    assert result["failed"]
    assert "service-defaults/api was changed by somebody else" in result["msg"]
    assert attempts == 5


@pytest.mark.parametrize(
    ("kind", "name", "body", "says"),
    [
        ("service-defaults", "api", {"Protocl": "http"}, 'invalid config key "Protocl"'),
        ("service-intentions", "api", {"Sources": []}, "invalid config entry kind"),
        ("service-splitter", "api", {"Splits": [{"Weight": 50}]}, "must be 100, not 50"),
        ("service-router", "api", {"Routes": [{}]}, "does not permit advanced routing"),
        ("proxy-defaults", "global", {"Config": {"a": None}}, "Config.a has no value (null)"),
        ("service-defaults", "api", {"Name": "web"}, "entry.Name is 'web'; it must be 'api'"),
    ],
)
def test_what_consul_refuses_is_named(
    entry: Run, kind: str, name: str, body: dict[str, Any], says: str
) -> None:
    result = entry(kind, name, body)
    assert result["failed"]
    assert f"{kind}/{name}" in result["msg"]
    assert says in result["msg"]
    assert "\n" not in result["msg"]


def test_no_consul_there_is_one_sentence() -> None:
    result = run_module(
        "fleetmesh_config_entry",
        consul_address="http://127.0.0.1:1",
        kind="service-defaults",
        name="api",
        entry={},
    )
    assert result["failed"]
    assert result["msg"].startswith(
        "reading service-defaults/api: no answer from http://127.0.0.1:1: "
    )


def test_intention_is_written_changed_and_deleted_once(
    intention: Run, consul_server: ConsulServer
) -> None:
    assert intention("web", "api", "allow", description="pages")["changed"]
    assert not intention("web", "api", "allow", description="pages")["changed"]
    denied = intention("web", "api", "deny")
    assert denied["changed"]
    assert denied["diff"]["before"]["action"] == "allow"
    assert denied["intention"]["action"] == "deny"
    (only,) = consul_server.get("/v1/connect/intentions")
    assert (only["Action"], only["Description"]) == ("deny", "")
    assert intention("web", "api", state="absent", check=True)["changed"]
    assert consul_server.get("/v1/connect/intentions")
    assert intention("web", "api", state="absent")["changed"]
    assert consul_server.get("/v1/connect/intentions") == []
    assert not intention("web", "api", state="absent")["changed"]


def test_wildcard_intentions_are_their_own(intention: Run) -> None:
    """`* => *` matches every call, and is still another intention than `web => api`."""
    assert intention("*", "*", "deny")["changed"]
    assert intention("web", "api", "allow")["changed"]
    assert intention("*", "api", "deny")["changed"]
    assert not intention("*", "*", "deny")["changed"]
    assert intention("web", "*", state="absent")["changed"] is False


def test_intention_check_mode_shows_the_same_diff(
    intention: Run, consul_server: ConsulServer
) -> None:
    checked = intention("web", "api", "deny", meta={"team": "a"}, check=True)
    assert consul_server.get("/v1/connect/intentions") == []
    done = intention("web", "api", "deny", meta={"team": "a"})
    assert checked["diff"] == done["diff"]
    assert done["diff"]["before"] == ""


def test_intention_created_by_somebody_else_in_between(
    intention: Run, consul_server: ConsulServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = load("module_utils.intentions").ObjectStore
    write = store.write

    def lose(self: Any, wanted: dict[str, Any]) -> None:
        monkeypatch.undo()
        body = {"SourceName": "web", "DestinationName": "api", "Action": "deny"}
        found = self._object

        def stale(*_: str) -> None:
            self._object = found
            consul_server.call("POST", "/v1/connect/intentions", body)

        self._object = stale
        write(self, wanted)

    monkeypatch.setattr(store, "write", lose)
    result = intention("web", "api", "allow")
    assert result["changed"]
    assert result["diff"]["before"]["action"] == "deny"
    (only,) = consul_server.get("/v1/connect/intentions")
    assert only["Action"] == "allow"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"action": "nope"}, "value of action must be one of: allow, deny, got: nope"),
        ({}, "state is present but any of the following are missing: action, permissions"),
        ({"permissions": [{"Action": "allow"}]}, "permissions need Consul 1.9 or newer"),
    ],
)
def test_wrong_intentions_are_refused(intention: Run, arguments: dict[str, Any], says: str) -> None:
    result = intention("web", "api", **arguments)
    assert result["failed"]
    assert says in result["msg"]


def test_info_lists_everything(entry: Run, intention: Run, consul_server: ConsulServer) -> None:
    entry("service-defaults", "api", {"Protocol": "http", "Meta": {"managed-by": "fleetmesh"}})
    intention("web", "api", "allow", meta={"managed-by": "fleetmesh"})
    info = run_module("fleetmesh_policy_info", consul_address=consul_server.address)
    assert info["config_entries"] == [
        {
            "Kind": "service-defaults",
            "Name": "api",
            "Protocol": "http",
            "Meta": {"managed-by": "fleetmesh"},
        }
    ]
    (only,) = info["intentions"]
    assert (only["source"], only["destination"], only["action"]) == ("web", "api", "allow")
    assert only["meta"] == {"managed-by": "fleetmesh"}


def test_a_token_without_rights_is_not_taken_for_an_empty_consul(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """1.8 answers such a token's list with []; deleting must fail, not say that all is gone."""
    from tests.support.consul import running_consul

    config = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": "root"}}}
    with running_consul(tmp_path_factory.mktemp("acl"), config) as consul:
        options = {"consul_address": consul.address, "source": "web", "destination": "api"}
        made = run_module("fleetmesh_intention", action="deny", token="root", **options)
        assert made["changed"]
        lesser = consul.call("PUT", "/v1/acl/token", {"Description": "none"}, token="root")
        for token in (lesser["SecretID"], "unknown"):
            result = run_module("fleetmesh_intention", state="absent", token=token, **options)
            assert result["failed"]
            assert "Consul answered 403" in result["msg"]
            assert token not in str(result)
        file = tmp_path_factory.mktemp("token") / "token"
        file.write_text("root\n")
        assert run_module("fleetmesh_intention", state="absent", token_file=str(file), **options)[
            "changed"
        ]
