"""What services of this host expose in the clear on one port: paths, and the ways to them."""

from __future__ import annotations

from fleetmesh.core.lane import Lane
from fleetmesh.model.snapshot import ExposedPath


class Exposed:
    """`lane` is by the path as it is written: one in another spelling is exposed no more than any
    other path. Two services may share a port."""

    __slots__ = ("_of_this_host", "_ways")

    def __init__(self) -> None:
        self._ways: dict[bytes, tuple[str, Lane]] = {}
        self._of_this_host: set[bytes] = set()

    def add(self, path: ExposedPath, service: str, lane: Lane) -> None:
        key = path.path.encode()
        self._ways[key] = service, lane
        if path.address:
            self._of_this_host.add(key)

    def way(self, target: bytes, neighbour: bool) -> tuple[str, Lane] | None:
        """Whose the path of a request `target` is, and the lane there; a query is not looked at.
        `neighbour`: it comes from this host."""
        path = target.partition(b"?")[0]
        if not neighbour and path in self._of_this_host:
            return None
        return self._ways.get(path)

    def services(self) -> list[str]:
        """In the order of their names, each once."""
        return sorted({service for service, _ in self._ways.values()})
