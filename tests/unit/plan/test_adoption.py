from __future__ import annotations

import pytest
from msgspec.structs import replace

from fleetmesh.plan.adoption import NOTHING, adopt, is_ours
from fleetmesh.plan.answers import ServiceInstance
from fleetmesh.settings import ServiceSettings, Settings

WEB = ServiceSettings(name="web", port=8080, id="web-1", file="web.yaml")
SETTINGS = Settings(address="10.0.0.1", address6="2001:db8::1", services=(WEB,))
OURS = ServiceInstance("web-1", "web", port=8080, meta={"managed-by": "fleetmesh"})
THEIRS = ServiceInstance("tf", "web", port=8080, meta={"managed-by": "terraform"})


def registered(*instances: ServiceInstance) -> dict[str, ServiceInstance]:
    return {instance.id: instance for instance in instances}


@pytest.mark.parametrize("meta", [None, {}, {"managed-by": "nomad"}])
def test_what_is_not_marked_is_not_ours(meta: dict[str, str] | None) -> None:
    assert not is_ours(replace(OURS, meta=meta))
    assert is_ours(OURS)


def test_nothing_of_ours_is_adopted() -> None:
    sidecar = replace(OURS, id="web-1-sidecar-proxy", kind="connect-proxy")
    assert adopt(SETTINGS, registered(OURS, sidecar)) == NOTHING


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1", "2001:db8::1", "127.0.0.1", "::1", "localhost"]
)
def test_the_same_name_and_port_here_is_the_same_instance(address: str) -> None:
    theirs = replace(THEIRS, address=address)
    found = adopt(SETTINGS, registered(theirs))
    assert (dict(found.services), found.problems) == ({"web": theirs}, ())


@pytest.mark.parametrize(
    "other",
    [
        replace(THEIRS, address="10.0.0.2"),
        replace(THEIRS, port=8081),
        replace(THEIRS, name="api"),
        replace(THEIRS, kind="connect-proxy"),
    ],
)
def test_other_instances_are_let_alone(other: ServiceInstance) -> None:
    """An external service that is registered here, a second instance, a gateway or a proxy."""
    assert adopt(SETTINGS, registered(other)) == NOTHING


def test_the_same_id_goes_before_the_same_port() -> None:
    same_id = replace(THEIRS, id="web-1")
    found = adopt(SETTINGS, registered(replace(THEIRS, id="a"), same_id))
    assert found.services["web"] is same_id


def test_of_several_the_choice_is_always_the_same() -> None:
    first, second = replace(THEIRS, id="a"), replace(THEIRS, id="b")
    assert adopt(SETTINGS, registered(second, first)).services["web"] is first


def test_the_same_id_with_another_port_is_adopted_and_told() -> None:
    """The data plane sends to the declared one."""
    found = adopt(SETTINGS, registered(replace(THEIRS, id="web-1", port=9090)))
    assert "web" in found.services
    (problem,) = found.problems
    assert problem.path == "web.yaml"
    assert "9090" in problem.rule


@pytest.mark.parametrize("changes", [{"name": "site"}, {"kind": "ingress-gateway"}])
def test_our_id_at_another_service_takes_both_of_ours(changes: dict[str, str]) -> None:
    found = adopt(SETTINGS, registered(replace(THEIRS, id="web-1", **changes)))
    assert (dict(found.services), found.taken) == ({}, {"web-1", "web-1-sidecar-proxy"})
    assert found.problems[0].remedy


def test_a_sidecar_of_another_tool_is_left_to_it() -> None:
    sidecar = replace(THEIRS, id="web-1-sidecar-proxy", name="envoy", kind="connect-proxy")
    found = adopt(SETTINGS, registered(sidecar))
    assert found.taken == {"web-1-sidecar-proxy"}
    assert "sidecar_service" in found.problems[0].remedy
