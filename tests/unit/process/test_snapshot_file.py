"""The data-plane file: read back as written, and every fault named at its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.ca import Authority, spiffe
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.edge.admin import without_keys
from fleetmesh.model.intention import Permission
from fleetmesh.model.snapshot import Leaf, LocalService
from fleetmesh.model.traffic import (
    Balancing,
    Endpoint,
    FieldMatch,
    HashPolicy,
    Limits,
    Match,
    QueryMatch,
    Route,
    Split,
    Target,
    Upstream,
)
from fleetmesh.process.snapshot_file import ListenerEntry, Plan, SnapshotFile, exported, load

Edit = Callable[[dict[str, Any]], object]

ROUTES = (
    Route(
        "reports",
        Match(
            path_prefix="/reports/",
            headers=(FieldMatch("x-canary", regex="y.*"),),
            query=(QueryMatch("page", present=True),),
            methods=("GET",),
        ),
        upstream("api-next", 21001).target,
        "/",
    ),
    Route("rest"),
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def document(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    """What `fleetmesh status --export` gives, with the certificates put beside it by hand."""
    leaf = authority.leaf("web")
    (tmp_path / "root.pem").write_text(authority.root)
    (tmp_path / "web.pem").write_text(leaf.chain)
    (tmp_path / "web.key").write_text(leaf.key or "")
    (tmp_path / "other.key").write_text(authority.leaf("web").key or "")
    (tmp_path / "api.pem").write_text((other := authority.leaf("api")).chain)
    (tmp_path / "api.key").write_text(other.key or "")
    api = msgspec.structs.replace(upstream("api", 21000), routes=ROUTES)
    served = snapshot(authority, (local_service("web", 8080, leaf),), (api,))
    file: dict[str, Any] = json.loads(msgspec.json.encode(exported(without_keys(served))))
    return file | {
        "roots": [],
        "root_files": ["root.pem"],
        "certificates": {"web": {"chain": "web.pem", "key": "web.key"}},
    }


def routes(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["upstreams"][0]["routes"]
    return found


def read(document: object, tmp_path: Path) -> Plan | list[str]:
    file = tmp_path / "plane.json"
    file.write_text(json.dumps(document))
    plan = load(file)
    if isinstance(plan, Plan):
        return plan
    return [str(problem).replace(f"{file}: ", "") for problem in plan]


def test_an_export_with_certificates_is_what_was_exported(
    document: dict[str, Any], tmp_path: Path, authority: Authority
) -> None:
    plan = read(document, tmp_path)
    assert isinstance(plan, Plan)
    assert plan.snapshot.roots == (authority.root,)
    (web,) = plan.snapshot.services
    assert web.leaf is not None
    assert web.leaf.key == (tmp_path / "web.key").read_text()
    assert web.leaf.serial == document["services"][0]["leaf"]["serial"]
    assert web.leaf.not_after == int(document["services"][0]["leaf"]["not_after"])
    assert [(entry.kind, entry.upstream) for entry in plan.listeners] == [
        ("inbound", ""),
        ("outbound", "api"),
    ]
    assert plan.snapshot.upstreams[0].routes == ROUTES


def by_request(**criteria: Any) -> dict[str, Any]:
    permission = {"action": "allow", **criteria}
    pair = {"source": "web", "destination": "api"}
    return {**pair, "action": "deny", "precedence": 9, "permissions": [permission]}


def test_what_is_exposed_is_listened_for_in_an_export_too(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["services"][0]["exposed"] = [{"listener_port": 9555, "path": "/m", "port": 9102}]
    document["listeners"].append({"kind": "exposed", "service": "web", "port": 9555})
    plan = read(document, tmp_path)
    assert isinstance(plan, Plan), plan
    assert plan.listeners[-1].kind == "exposed"
    assert ListenerEntry("exposed", "web", port=9555) in exported(plan.snapshot).listeners


def test_settings_of_workers(document: dict[str, Any], tmp_path: Path) -> None:
    plan = read(document | {"settings": {"http": {"idle_timeout": 7}}}, tmp_path)
    assert isinstance(plan, Plan)
    assert plan.settings.http.idle_timeout == 7


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda d: d.pop("node"), "node: is missing"),
        (
            lambda d: d["services"][0].update(intention=[]),
            "services[0].intention: is not known here. Known are name, id,",
        ),
        (
            lambda d: d["upstreams"][0]["target"]["endpoints"][0].update(prt=1),
            "upstreams[0].target.endpoints[0].prt: is not known here",
        ),
        (
            lambda d: d["services"][0].update(intentions=[by_request(path_regex="(")]),
            "services[0].intentions[0].permissions[0].path_regex: is no regex of RE2",
        ),
        (
            lambda d: d["listeners"][0].update(kind="exposed", port=9555),
            "listeners[0].port: web exposes nothing on 9555",
        ),
        (
            lambda d: d["services"][0].update(intentions=[by_request(query=[])]),
            "services[0].intentions[0].permissions[0].query: is not known here",
        ),
        (
            lambda d: routes(d)[0]["match"].update(path_suffix="/x"),
            "upstreams[0].routes[0].match.path_suffix: is not known here. Known are path_exact,",
        ),
        (
            lambda d: routes(d)[0]["target"]["endpoints"][0].update(prt=1),
            "upstreams[0].routes[0].target.endpoints[0].prt: is not known here",
        ),
        (
            lambda d: routes(d)[0]["match"].update(methods="GET"),
            "upstreams[0].routes[0].match.methods: Expected `array`",
        ),
        (
            lambda d: routes(d)[1].update(match={"path_regex": "/(a"}),
            "upstreams[0].routes[1].match.path_regex: is no regex of RE2: missing ): /(a",
        ),
        (
            lambda d: routes(d)[0]["match"]["headers"][0].update(regex="(?!a)"),
            "upstreams[0].routes[0].match.headers[0].regex: is no regex of RE2",
        ),
        (
            lambda d: routes(d)[0]["target"].update(id="api.default.dc1"),
            "upstreams[0].routes[0].target.id: another target of this upstream is api.default.dc1",
        ),
        (
            lambda d: d["upstreams"][0].update(
                splits=[{"weight": 9999, "target": d["upstreams"][0]["target"]}]
            ),
            "upstreams[0].splits: the weights make 9999. Let them make 10000",
        ),
        (
            lambda d: d["upstreams"][0]["target"].update(failover=["other"]),
            "upstreams[0].target.failover[0]: there is no target 'other'. Add it to spares",
        ),
        (lambda d: d["services"][0].update(port="x"), "services[0].port: Expected `int`"),
        (lambda d: d["services"][0].update(mode="open"), "services[0].mode: Invalid enum value"),
        (lambda d: d.update(listeners={}), "listeners: Expected `array`"),
        (lambda d: d.update(root_files=[]), "roots: there is none"),
        (
            lambda d: d.update(root_files=["no.pem"]),
            "root_files[0]: no.pem cannot be read: No such",
        ),
        (lambda d: d["services"].append(d["services"][0]), "services[1]: web is listed twice"),
        (lambda d: d["upstreams"].append(d["upstreams"][0]), "upstreams[1]: api is listed twice"),
        (
            lambda d: d["certificates"].update(shop={"chain": "web.pem", "key": "web.key"}),
            "certificates.shop: there is no such service",
        ),
        (lambda d: d["certificates"].clear(), "services[0].leaf: has no key. Name its files"),
        (
            lambda d: d["certificates"]["web"].update(key="other.key"),
            "certificates.web: leaf ",
        ),
        (
            lambda d: d["certificates"]["web"].update(chain="web.key"),
            "certificates.web: the chain is no PEM certificate",
        ),
        (
            lambda d: d["certificates"]["web"].update(chain="api.pem", key="api.key"),
            f"certificates.web: is for {spiffe('api')}, not {spiffe('web')}",
        ),
        (
            lambda d: d["listeners"][0].update(service="shop"),
            "listeners[0].service: there is no service 'shop'",
        ),
        (
            lambda d: d["listeners"][1].update(upstream=""),
            "listeners[1].upstream: there is no upstream ''",
        ),
        (
            lambda d: d["listeners"][0].update(upstream="api"),
            "listeners[0].upstream: an inbound listener has none",
        ),
        (
            lambda d: d["listeners"][0].update(address="localhost"),
            "listeners[0].address: 'localhost' is no IP address",
        ),
        (lambda d: d["listeners"][0].update(port=70000), "listeners[0].port: 70000 is no port"),
        (
            lambda d: [entry.update(port=4000) for entry in d["listeners"]],
            "listeners[1]: listens where one above does",
        ),
    ],
)
def test_a_fault_is_named_at_its_place(
    document: dict[str, Any], tmp_path: Path, edit: Edit, fault: str
) -> None:
    edit(document)
    problems = read(document, tmp_path)
    assert isinstance(problems, list)
    assert len(problems) == 1, problems
    assert problems[0].startswith(fault)


def test_all_faults_are_told(document: dict[str, Any], tmp_path: Path) -> None:
    """One does not hide another."""
    document["services"][0]["port"] = "x"
    document["upstreams"][0]["protocol"] = "ftp"
    document["extra"] = 1
    problems = read(document, tmp_path)
    assert isinstance(problems, list)
    assert [problem.split(":")[0] for problem in problems] == [
        "extra",
        "services[0].port",
        "upstreams[0].protocol",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"[]", "must be a JSON object"),
        (b"{", "is not JSON"),
        (b"\xff", "cannot be read"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_file_of_the_kind(tmp_path: Path, text: bytes | None, fault: str) -> None:
    file = tmp_path / "plane.json"
    if text is not None:
        file.write_bytes(text)
    problems = load(file)
    assert isinstance(problems, list)
    assert [str(problem).startswith(f"{file}: {fault}") for problem in problems] == [True]


def test_the_reference_is_right(tmp_path: Path, authority: Authority) -> None:
    """Its example loads, and it names every key that there is."""
    text = (Path(__file__).parents[3] / "docs/dataplane-file.md").read_text()
    leaf = authority.leaf("web")
    (tmp_path / "root.pem").write_text(authority.root)
    (tmp_path / "web.pem").write_text(leaf.chain)
    (tmp_path / "web.key").write_text(leaf.key or "")
    plan = read(json.loads(text.split("```json\n")[1].split("```")[0]), tmp_path)
    assert isinstance(plan, Plan), plan
    msgspec.json.decode(text.split("```json\n")[2].split("```")[0], type=Route)
    values = (LocalService, Leaf, Upstream, Target, Endpoint, Route, Match, FieldMatch, QueryMatch)
    shares = (Split, Balancing, HashPolicy, Limits, Permission)
    kinds = (SnapshotFile, *values, *shares, ListenerEntry)
    keys = {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}
    assert {key for key in keys if f"`{key}`" not in text} == set()
