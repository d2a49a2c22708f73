from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.support.answers import instance
from tests.unit.plan.test_compile import SETTINGS, compiled, observed

from fleetmesh.model.snapshot import Outsider
from fleetmesh.plan.addresses import addresses
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.outsiders import outsiders
from fleetmesh.settings import WithoutSidecar

REFUSE = replace(SETTINGS, without_sidecar=WithoutSidecar.REFUSE)
DB = InstanceQuery("db", own=True)


def plain(port: int = 5432, number: int = 7, **more: object) -> Instance:
    body = {"Kind": "", "ID": "db", "Service": "db", "Port": port, "Proxy": None}
    return instance("db", number, **(body | more))  # type: ignore[arg-type]


def test_the_snapshot_knows_them_only_where_a_setting_is_about_them() -> None:
    seen = observed(instance(), catalog=frozenset({"api", "api-sidecar-proxy", "db"}))
    seen = replace(seen, instances={**seen.instances, DB: (plain(), plain(number=8))})
    db = Outsider("db", (("10.0.0.7", 5432), ("10.0.0.8", 5432)))
    for setting, known, refused in (
        (None, (), False),
        (WithoutSidecar.PASSTHROUGH, (db,), False),
        (WithoutSidecar.REFUSE, (db,), True),
    ):
        snapshot = compiled(seen, replace(SETTINGS, without_sidecar=setting)).snapshot
        assert (snapshot.outsiders, snapshot.refuse_outsiders) == (known, refused)
        assert [upstream.service for upstream in snapshot.upstreams] == ["api"]


def test_what_consul_has_not_told_is_as_before() -> None:
    seen = observed(catalog=frozenset({"db"}), instances={DB: (plain(),)})
    before = compiled(seen, REFUSE).snapshot
    untold = replace(seen, instances={})
    assert outsiders(REFUSE, untold, before) == before.outsiders != ()
    assert outsiders(REFUSE, replace(seen, instances={DB: ()}), before) == ()
    assert outsiders(REFUSE, replace(untold, catalog=frozenset()), before) == ()


def test_a_service_that_gets_a_sidecar_is_none_any_more() -> None:
    seen = observed(catalog=frozenset({"db"}), instances={DB: (plain(),)})
    assert outsiders(REFUSE, seen)
    assert not outsiders(REFUSE, replace(seen, catalog=frozenset({"db", "db-sidecar-proxy"})))
    sidecars = {InstanceQuery("db"): (instance("db"),)}
    assert not outsiders(REFUSE, replace(seen, instances={**seen.instances, **sidecars}))


@pytest.mark.parametrize("body", [{"port": 0}, {"Kind": "mesh-gateway"}])
def test_what_is_not_dialled_as_an_application_is_none(body: dict[str, object]) -> None:
    instances = {DB: (plain(**body),)}  # type: ignore[arg-type]
    assert outsiders(REFUSE, observed(catalog=frozenset({"db"}), instances=instances)) == ()


def test_addresses_are_written_as_sockets_report_them() -> None:
    tagged = {
        "lan_ipv6": {"Address": "FD00:0::7", "Port": 1},
        "consul-virtual": {"Address": "240.0.0.9", "Port": 1},
        "wan": {"Address": "198.51.100.7", "Port": 1},
    }
    assert addresses(plain(TaggedAddresses=tagged)) == {"10.0.0.7", "fd00::7", "240.0.0.9"}
    assert addresses(plain(Address="db.example")) == set()
