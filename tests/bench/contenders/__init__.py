"""The contenders by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.bench.contenders import direct, envoy, fleetmesh, haproxy, nginx
from tests.bench.running import family
from tests.bench.site import Site


@dataclass(frozen=True)
class Contender:
    """A running one. `entry` are the ports that callers dial, by service; `roots` the pids that
    were started, the outbound side first."""

    name: str
    entry: dict[str, int]
    roots: list[int]

    @property
    def pids(self) -> list[int]:
        return family(self.roots)


Started = AbstractContextManager[tuple[dict[str, int], list[int]]]

ONLY = {"unshared": "new_connections"}
"""Contenders that have one work only."""

START: dict[str, Callable[[Site], Started]] = {
    "fleetmesh": fleetmesh.start,
    "unshared": fleetmesh.start_unshared,
    "envoy": envoy.start,
    "haproxy": haproxy.start,
    "nginx": nginx.start,
    "direct": direct.start,
}
