"""How many connections a worker takes."""

from __future__ import annotations

import pytest

from fleetmesh.core.pool import Pool
from fleetmesh.proxy.crowd import LEAST, SPARE_FILES, most_connections


@pytest.mark.parametrize(
    ("said", "files", "most"),
    [
        (0, 262_144, 131_008),
        (0, 1024, 448),
        (0, SPARE_FILES, LEAST),
        (500, 262_144, 500),
        (500, 1024, 500),
    ],
)
def test_what_is_said_or_what_open_files_allow(said: int, files: int, most: int) -> None:
    assert most_connections(said, files) == most


def test_connections_that_wait_can_all_be_given_up_and_the_pool_goes_on() -> None:
    class Connection:
        born = idle_since = 0.0

    pool: Pool[Connection] = Pool(10, 60.0, 60.0)
    one, two = Connection(), Connection()
    for connection in (one, two):
        pool.lend()
        assert pool.put(connection, 0.0)
    assert pool.idle() == [one, two]
    assert len(pool) == 0
    pool.lend()
    assert pool.put(one, 0.0)
