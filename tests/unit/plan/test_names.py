"""Names of the mesh, read and not read."""

from __future__ import annotations

import pytest

from fleetmesh.plan.names import MeshName, named, parse, zone_of

DATACENTERS = frozenset({"dc1", "dc2"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("api.mesh", MeshName("api")),
        ("API.MESH", MeshName("api")),
        ("api.virtual.consul", MeshName("api")),
        ("v1.api.mesh", MeshName("api", "v1")),
        ("v1.api.virtual.consul", MeshName("api", "v1")),
        ("api.dc2.mesh", MeshName("api", "", "dc2")),
        ("v1.api.dc2.mesh", MeshName("api", "v1", "dc2")),
        ("api.virtual.dc9.consul", MeshName("api", "", "dc9")),
        ("v1.api.virtual.dc2.consul", MeshName("api", "v1", "dc2")),
        ("api.dc9.dc.mesh", MeshName("api", "", "dc9")),
        ("v1.api.dc2.dc.mesh", MeshName("api", "v1", "dc2")),
        ("api.virtual.dc9.dc.consul", MeshName("api", "", "dc9")),
        ("dc.mesh", MeshName("dc")),
        ("v1.dc.mesh", MeshName("dc", "v1")),
        ("dc1.mesh", MeshName("dc1")),
        ("virtual.virtual.consul", MeshName("virtual")),
        ("a" * 63 + ".mesh", MeshName("a" * 63)),
    ],
)
def test_a_name_means_a_service(name: str, meant: MeshName) -> None:
    assert parse(tuple(name.split(".")), DATACENTERS) == meant


@pytest.mark.parametrize(
    "name",
    [
        "mesh",
        "virtual.consul",
        "consul",
        "api.service.consul",
        "api.consul",
        "api.mesh.example.com",
        "not_a_name.mesh",
        "-api.mesh",
        "_http._tcp.api.mesh",
        "a.b.c.mesh",
        "a.b.c.dc1.mesh",
        "a.b.c.virtual.consul",
        "v_1.api.mesh",
        "a.b.c.dc2.dc.mesh",
        "api.virtual.dc2.dc2.consul",
        "\xe4pi.mesh",
    ],
)
def test_other_names_mean_nothing(name: str) -> None:
    assert parse(tuple(name.split(".")), DATACENTERS) is None


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("api.mesh", "mesh"),
        ("a.b.c.d.mesh", "mesh"),
        ("api.virtual.consul", "virtual.consul"),
        ("api.virtual.dc1.consul", "virtual.dc1.consul"),
        ("api.virtual.dc1.dc.consul", "virtual.dc1.dc.consul"),
        ("api.virtual.default.ns.consul", ""),
        ("api.service.consul", ""),
        ("example.com", ""),
        ("consul", ""),
        ("", ""),
    ],
)
def test_the_zones_are_the_meshs(name: str, zone: str) -> None:
    assert ".".join(zone_of(tuple(name.split(".")))) == zone


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (MeshName("api", "", "dc1"), "api"),
        (MeshName("api", "v1", "dc1"), "v1.api.default.dc1"),
        (MeshName("api", "", "dc2"), "api.default.dc2"),
        (MeshName("api", "v1", "dc2"), "v1.api.default.dc2"),
    ],
)
def test_a_key_says_what_is_meant(name: MeshName, key: str) -> None:
    """A service of this datacenter is called by its name alone."""
    assert name.key("dc1") == key
    assert named(key) == (MeshName("api") if key == "api" else name)
    assert MeshName(name.service, name.subset).key("dc1") == key or name.datacenter == "dc2"


@pytest.mark.parametrize("name", ["api", "an.old.name", "a.b.other.c", "a.b"])
def test_any_other_key_is_a_services_name(name: str) -> None:
    assert named(name) == MeshName(name)
