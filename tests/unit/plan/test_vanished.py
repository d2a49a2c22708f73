from __future__ import annotations

from msgspec.structs import replace
from tests.support.answers import instance

from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.vanished import MANY, ONE, catalog_with_doubted, is_believed, patience

SEEN = Observed(
    catalog=frozenset({"a", "b", "c", "d", "plain"}),
    instances={
        **{InstanceQuery(name): (instance(),) for name in "abcd"},
        InstanceQuery("plain"): (),
    },
)


A, B = InstanceQuery("a"), InstanceQuery("b")


def test_one_service_is_believed_soon_and_half_of_them_late() -> None:
    assert patience([A], SEEN) == ONE
    assert patience([A, B], SEEN) == MANY
    assert patience([InstanceQuery(name) for name in "abcd"], SEEN) == MANY


def test_the_only_service_is_one() -> None:
    """A mesh of one service whose last instance is stopped is no restored catalog."""
    alone = Observed(catalog=frozenset({"a"}), instances={A: (instance(),)})
    assert patience([A], alone) == ONE


def test_services_that_were_not_known_do_not_count() -> None:
    assert patience([InstanceQuery(name) for name in "axyz"], SEEN) == ONE


def test_subsets_and_other_datacenters_are_no_services_of_their_own() -> None:
    parts = [InstanceQuery("b", filter="v1"), InstanceQuery("c", "dc2")]
    assert patience([A, *parts], SEEN) == ONE


def test_belief_comes_with_time() -> None:
    one = {A: 100.0}
    assert not is_believed(A, one, SEEN, 100.0 + ONE - 0.1)
    assert is_believed(A, one, SEEN, 100.0 + ONE)
    many = {A: 100.0, B: 101.0}
    assert not is_believed(A, many, SEEN, 100.0 + MANY - 0.1)
    assert is_believed(A, many, SEEN, 100.0 + MANY)
    assert not is_believed(B, many, SEEN, 100.0 + MANY)


def test_catalog_keeps_names_whose_endpoints_are_believed_in() -> None:
    assert catalog_with_doubted({"b", "new"}, SEEN) == {"a", "b", "c", "d", "new"}
    emptied = Observed(catalog=SEEN.catalog, instances={**SEEN.instances, InstanceQuery("a"): ()})
    assert catalog_with_doubted({"b"}, emptied) == {"b", "c", "d"}
    assert catalog_with_doubted({"b"}, Observed()) == {"b"}


def test_catalog_keeps_what_is_remembered_and_wanted() -> None:
    """Until Consul has told of its instances, which `remembered` then no longer asks for."""
    remembered = frozenset({A, B, InstanceQuery("c", "dc2")})
    seen = Observed(remembered=remembered, wanted=frozenset({"a", "v1.d.default.dc1"}))
    assert catalog_with_doubted({"x"}, seen) == {"x", "a"}
    assert catalog_with_doubted({"x"}, replace(seen, remembered=frozenset())) == {"x"}
