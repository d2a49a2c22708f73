"""The pool's decisions, with a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fleetmesh.core.pool import Pool


@dataclass(eq=False)
class Connection:
    born: float
    idle_since: float = 0.0


@pytest.fixture
def pool() -> Pool[Connection]:
    return Pool(max_idle=2, max_idle_seconds=10.0, max_age=100.0)


def lent(pool: Pool[Connection], born: float) -> Connection:
    pool.lend()
    return Connection(born)


def test_the_last_one_in_is_the_first_one_out(pool: Pool[Connection]) -> None:
    one, two = lent(pool, 0), lent(pool, 0)
    assert pool.active == 2
    assert pool.put(one, 1)
    assert pool.put(two, 2)
    assert pool.take(3) is two
    assert pool.take(3) is one
    assert pool.take(3) is None
    assert pool.active == 2


def test_there_is_a_limit(pool: Pool[Connection]) -> None:
    assert [pool.put(lent(pool, 0), 1) for _ in range(3)] == [True, True, False]
    assert (len(pool), pool.active) == (2, 0)


def test_idle_and_old_connections_are_not_lent_but_given_up(pool: Pool[Connection]) -> None:
    idle, old = lent(pool, 0), lent(pool, -95)
    pool.put(idle, 0)
    pool.put(old, 4)
    assert pool.take(5.5) is None
    assert pool.expired(5.5) == [old]
    assert pool.take(9.9) is idle
    pool.put(idle, 9.9)
    assert pool.expired(20) == [idle]
    assert not pool.put(lent(pool, 0), 100)


def test_an_idle_connection_may_end_by_itself(pool: Pool[Connection]) -> None:
    one = lent(pool, 0)
    pool.put(one, 0)
    pool.discard(one)
    pool.discard(one)
    assert pool.take(1) is None


def test_a_closed_pool_takes_nothing_back(pool: Pool[Connection]) -> None:
    idle, away = lent(pool, 0), lent(pool, 0)
    pool.put(idle, 0)
    assert pool.close() == [idle]
    assert not pool.put(away, 1)
    assert (len(pool), pool.active) == (0, 0)


def test_a_limit_counts_what_is_lent_and_what_is_being_opened(pool: Pool[Connection]) -> None:
    """Not what is idle, for that is what a request takes; and none is no limit."""
    assert not pool.full(1)
    pool.opening = 1
    assert pool.full(1)
    assert not pool.full(2)
    one = lent(pool, 0)
    assert pool.full(2)
    pool.put(one, 0)
    assert not pool.full(2)
    pool.opening = 1000
    assert not pool.full(0)


@pytest.mark.parametrize(
    ("connections", "requests", "limit"), [(0, 0, 0), (5, 0, 5), (0, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_the_lower_limit_holds_for_requests(connections: int, requests: int, limit: int) -> None:
    """Over HTTP/1 each has a connection to itself."""
    pool: Pool[Connection] = Pool(2, 10.0, 100.0, connections, requests)
    assert (pool.max_connections, pool.max_requests) == (connections, limit)


def test_no_more_wait_for_a_connection_than_may() -> None:
    """Where there is an idle one nobody waits; with this limit alone one is asked as well."""
    pool: Pool[Connection] = Pool(2, 10.0, 100.0)
    pool.limit(0, 0, 2)
    assert pool.max_requests
    pool.active, pool.opening = 1000, 1
    assert not pool.full(pool.max_requests)
    pool.opening = 2
    assert pool.full(pool.max_requests)
    assert pool.full(pool.max_connections)
    pool.put(lent(pool, 0), 0)
    assert not pool.full(pool.max_requests)
    pool.limit(3, 0, 0)
    assert (pool.max_connections, pool.max_requests) == (3, 3)
