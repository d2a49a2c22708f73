"""Buckets in memory that several have in common."""

from __future__ import annotations

from random import Random

from fleetmesh.core.buckets import BYTES, NOWHERE, PLACES, REACH, Buckets, alone, key_of


def test_what_one_writes_another_reads() -> None:
    memory = memoryview(bytearray(BYTES))
    first, second = Buckets(memory), Buckets(memory)
    key = key_of("api")
    place = first.find(key, 10.0)
    assert first.full_at(place) == 10.0
    first.fill_at(place, 12.5)
    assert second.find(key, 11.0) == place
    assert second.full_at(place) == 12.5


def test_a_bucket_that_is_full_makes_room_and_begins_anew_elsewhere() -> None:
    buckets = alone()
    keys = [float(PLACES * number) for number in range(1, REACH + 2)]  # one home for all
    places = []
    for key in keys[:REACH]:
        places.append(buckets.find(key, 1.0))
        buckets.fill_at(places[-1], 9.0)
    assert len(set(places)) == REACH
    assert buckets.find(keys[-1], 8.9) == NOWHERE
    assert buckets.full_at(NOWHERE) == 0.0
    buckets.fill_at(NOWHERE, 5.0)
    assert buckets.find(keys[-1], 9.0) == places[0]
    assert not buckets.has(places[0], keys[0])
    assert buckets.has(places[0], keys[-1])


def test_many_buckets_are_kept_apart() -> None:
    """Five thousand of three workers, in any order, none of them full."""
    memory = memoryview(bytearray(BYTES))
    workers = [Buckets(memory) for _ in range(3)]
    known: dict[float, float] = {}
    random = Random(8)
    names = [f"caller {number}" for number in range(5000)]
    for _ in range(20_000):
        key = key_of(random.choice(names))
        one = random.choice(workers)
        place = one.find(key, 1.0)
        assert one.full_at(place) == known.get(key, 1.0)
        known[key] = random.uniform(2.0, 9.0)
        one.fill_at(place, known[key])
