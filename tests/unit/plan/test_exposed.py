from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace
from tests.support.worker import local_service

from fleetmesh.model.snapshot import ExposedPath
from fleetmesh.plan.answers import Check
from fleetmesh.plan.exposed import (
    Expose,
    ExposePath,
    Rerouted,
    exposed,
    merged,
    rerouted,
    settled,
)
from fleetmesh.settings import ServiceSettings, Settings

WEB = local_service("web", 8080, None)
SETTINGS = Settings(address="10.0.0.1")
METRICS = ExposePath(9555, "/metrics", 9102, "http")


def test_consuls_spelling() -> None:
    text = """{"Checks": true, "Paths": [{"ListenerPort": 9555, "Path": "/metrics",
    "LocalPathPort": 9102, "Protocol": "http", "ParsedFromCheck": false}]}"""
    assert msgspec.json.decode(text, type=Expose) == Expose([METRICS])


def test_a_services_paths_go_in_place_of_everybodys() -> None:
    everywhere = Expose([ExposePath(1, "/all")])
    assert merged(None, None) == Expose()
    assert merged(None, everywhere) == everywhere
    assert merged(Expose(paths=[METRICS]), everywhere) == Expose([METRICS])


def test_without_a_port_it_is_the_applications() -> None:
    path = ExposePath(9555, "/health")
    assert exposed(Expose(paths=[path]), "here", WEB) == ((ExposedPath(9555, "/health", 8080),), ())


@pytest.mark.parametrize(
    "path",
    [
        replace(METRICS, protocol="http2"),
        replace(METRICS, path="metrics"),
        replace(METRICS, listener_port=0),
        replace(METRICS, listener_port=70000),
    ],
)
def test_what_cannot_be_honoured_is_named_and_the_rest_is(path: ExposePath) -> None:
    found, (problem,) = exposed(Expose(paths=[path, METRICS]), "service-defaults/web", WEB)
    assert found == (ExposedPath(9555, "/metrics", 9102),)
    assert problem.path == "service-defaults/web: Expose.Paths[0]"


@pytest.mark.parametrize("port", [15006, 22, 15100, 21000])
def test_the_agents_own_ports_expose_nothing(port: int) -> None:
    web = replace(WEB, exposed=(ExposedPath(port, "/metrics", 9102),))
    (kept,), (problem,) = settled([web], SETTINGS)
    assert kept.exposed == ()
    assert str(port) in problem.rule


def test_one_path_of_a_port_is_one_services() -> None:
    path = ExposedPath(9555, "/metrics", 9102)
    api = replace(local_service("api", 1, None), exposed=(path, path))
    kept, (problem,) = settled([api, replace(WEB, exposed=(path,))], SETTINGS)
    assert [service.exposed for service in kept] == [(path,), ()]
    assert (problem.path, "api" in problem.rule) == ("web: exposed path /metrics", True)


DECLARED = ServiceSettings(
    name="web", port=8080, checks=({"HTTP": "http://127.0.0.1:8081/up?x=1", "Interval": "5s"},)
)
AGREED = Check(
    "passing", "c", "web", type="http", output="HTTP GET http://127.0.0.1:21500/up?x=1: 200"
)
FAILED = 'Get "http://127.0.0.1:21501/live": dial tcp 127.0.0.1:21501: connect: connection refused'


@pytest.mark.parametrize(
    ("check", "paths"),
    [
        (AGREED, [ExposedPath(21500, "/up", 8081, "127.0.0.1")]),
        (replace(AGREED, output=FAILED), [ExposedPath(21501, "/live", 8080, "127.0.0.1")]),
        (replace(AGREED, output="HTTP GET http://127.0.0.1:8081/up: 200 OK"), []),
        (replace(AGREED, output=""), []),
        (replace(AGREED, service_id="api"), []),
        (
            replace(AGREED, output="HTTP GET http://[::1]:9000: 200 OK", exposed_port=9000),
            [ExposedPath(9000, "/", 8080, "::1")],
        ),
    ],
)
def test_checks_are_found_where_consul_makes_them(check: Check, paths: list[ExposedPath]) -> None:
    assert rerouted(DECLARED, "web", {"c": check}) == Rerouted(tuple(paths))


def test_a_check_that_is_no_http_is_named() -> None:
    check = Check("critical", "g", "web", type="grpc", output="rpc error", exposed_port=21500)
    assert rerouted(DECLARED, "web", {"g": check}) == Rerouted((), ("g",))
