"""What is seen of the data planes from outside, and what it amounts to."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.running import cpu_seconds, pss

WARM = 180.0
"""Seconds that say nothing of memory: pools and arenas grow until they fit the load, in steps as
the most that was ever open at once gets more."""
ENOUGH = 5
"""Samples for a line."""
MB = 1e6
SMALL_GROWTH = 6 * MB
"""Bytes that a few seconds of noise amount to."""
GROWTH = 0.05
FILES = 8
"""Descriptors more than before the load that are no leak: a connection that is just closing."""


@dataclass(frozen=True)
class Sample:
    """`at` in seconds since the load began, `memory` in bytes and `files` of all processes, `cpu`
    in CPU-seconds so far, `done` and `errors` exchanges so far."""

    at: float
    memory: int
    files: int
    cpu: float
    done: int
    errors: int


def sample(at: float, pids: list[int], done: int, errors: int) -> Sample:
    return Sample(at, pss(pids), files(pids), cpu_seconds(pids), done, errors)


def files(pids: list[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)  # noqa: PTH208


def row(one: Sample, before: Sample | None) -> str:
    """A line of the table; `header` is above it."""
    cpu = (one.cpu - before.cpu) / (one.at - before.at) if before else 0.0
    return (
        f"{one.at:8.0f}{one.memory / MB:10.1f}{one.files:8}{100 * cpu:9.1f}"
        f"{one.done:10}{one.errors:8}"
    )


HEADER = f"{'seconds':>8}{'PSS MB':>10}{'files':>8}{'CPU %':>9}{'done':>10}{'errors':>8}"


def growth(samples: Sequence[Sample]) -> float:
    """Bytes that memory grew, once warm, along the line that fits the samples best; 0 when there
    are too few of them for a line."""
    warm = [one for one in samples if one.at >= WARM]
    if len(warm) < ENOUGH:
        return 0.0
    slope = statistics.linear_regression(
        [one.at for one in warm], [float(one.memory) for one in warm]
    ).slope
    return slope * (warm[-1].at - warm[0].at)


def faults(
    samples: Sequence[Sample],
    files_before: int,
    files_after: int,
    errors: Mapping[str, int],
    died: int,
) -> list[str]:
    """Why the soak failed; empty when it did not."""
    found = []
    grown = growth(samples)
    allowed = max(SMALL_GROWTH, GROWTH * samples[-1].memory)
    if grown > allowed:
        found.append(f"memory grew by {grown / MB:.1f} MB, {allowed / MB:.1f} are noise")
    if files_after > files_before + FILES:
        found.append(f"{files_after - files_before} file descriptors more than before the load")
    if died:
        found.append(f"{died} workers died")
    found += [f"{count} times: {what}" for what, count in errors.items() if count]
    return found
