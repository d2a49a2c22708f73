"""Where requests wait for a place at an endpoint that has all that it may have."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

from fleetmesh.model.traffic import Target

MOST: Final = 1024
"""Requests in a line where nothing else is said: Envoy's default of pending requests."""


class Waiting(Protocol):
    def wake(self) -> None:
        """There may be a place. Whoever takes it leaves the line, and wakes the next one."""


class Line:
    """Of the requests of one local service to one target, which has several endpoints: a place at
    any of them is for whoever waits longest. It waits `patience` seconds; `most` may wait."""

    __slots__ = ("_waiting", "most", "patience")

    def __init__(self, patience: float, most: int) -> None:
        self.patience = patience
        self.most = most
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self.most

    def join(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)

    def leave(self, waiting: Waiting) -> None:
        try:
            self._waiting.remove(waiting)
        except ValueError:
            pass

    def freed(self) -> None:
        """A place is free, or a connection that was being opened no longer is."""
        if self._waiting:
            self._waiting[0].wake()


class Lines:
    """Of one target, by local service."""

    __slots__ = ("_lines", "most", "patience")

    def __init__(self, patience: float, most: int) -> None:
        self.patience = patience
        self.most = most
        self._lines: dict[str, Line] = {}

    def of(self, source: str) -> Line:
        line = self._lines.get(source)
        if line is None:
            line = self._lines[source] = Line(self.patience, self.most)
        return line

    def settle(self, patience: float, most: int) -> None:
        """What holds from now on; who waits already waits on."""
        self.patience, self.most = patience, most
        for line in self._lines.values():
            line.patience, line.most = patience, most


TargetKey = tuple[str, float]
"""A target's id and its connect timeout: upstreams where both are the same share its endpoints."""


def lines_of(
    target: Target,
    patience: float,
    known: dict[TargetKey, Lines],
    before: Mapping[TargetKey, Lines],
) -> Lines | None:
    """Those of `target`, put down in `known`, the ones from `before` if there were any; None where
    nobody waits. `patience` is for where the target says nothing."""
    said = target.limits.queue_wait
    patience = patience if said is None else said
    if patience <= 0.0:
        return None
    key = (target.id, target.connect_timeout)
    lines = known.get(key)
    if lines is None:
        most = target.limits.max_pending_requests or MOST
        lines = known[key] = before.get(key) or Lines(patience, most)
        lines.settle(patience, most)
    return lines
