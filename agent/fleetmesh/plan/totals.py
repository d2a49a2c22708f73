"""Reports of several workers, and of those that are gone, as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from fleetmesh.model.report import ConnectionCount, Latency, Report, RetryCount

T = TypeVar("T")


def total(reports: Iterable[Report]) -> Report:
    """The sums of all counts, sorted by their labels. `pid`, `generation` and `served` are a
    single worker's and are left empty."""
    reports = tuple(reports)
    return Report(
        pid=0,
        generation=0,
        requests=_summed(
            (one for report in reports for one in report.requests),
            lambda one: (one.direction, one.source, one.destination, one.route, one.status),
            lambda a, b: replace(a, count=a.count + b.count),
        ),
        connections=_summed(
            (one for report in reports for one in report.connections),
            lambda one: (one.direction, one.source, one.destination, one.kind),
            _connections,
        ),
        refusals=_summed(
            (one for report in reports for one in report.refusals),
            lambda one: (one.direction, one.source, one.destination, one.code),
            lambda a, b: replace(a, count=a.count + b.count),
        ),
        latencies=_summed(
            (one for report in reports for one in report.latencies),
            lambda one: (one.direction, one.source, one.destination, one.route, one.code_class),
            _latencies,
        ),
        retries=_summed(
            (one for report in reports for one in report.retries),
            lambda one: (one.direction, one.source, one.destination, one.route),
            _retries,
        ),
        ejections=_summed(
            (one for report in reports for one in report.ejections),
            lambda one: (one.service, one.reason),
            lambda a, b: replace(a, count=a.count + b.count),
        ),
        ejected=_summed(
            (one for report in reports for one in report.ejected),
            lambda one: (one.service, one.endpoint),
            lambda a, b: replace(b, workers=a.workers + b.workers),
        ),
        under_way=_summed(
            (one for report in reports for one in report.under_way),
            lambda one: (one.service,),
            lambda a, b: replace(a, count=a.count + b.count, limit=a.limit + b.limit),
        ),
        faults=_summed(
            (one for report in reports for one in report.faults),
            lambda one: (one.id, one.source, one.destination, one.kind),
            lambda a, b: replace(a, count=a.count + b.count),
        ),
    )


def retire(report: Report) -> Report:
    """What remains of a worker that is gone: its counts, but nothing active."""
    return Report(
        pid=0,
        generation=0,
        requests=report.requests,
        connections=tuple(replace(one, active=0) for one in report.connections),
        refusals=report.refusals,
        latencies=report.latencies,
        retries=report.retries,
        ejections=report.ejections,
        faults=report.faults,
    )


def _summed(
    counts: Iterable[T], labels: Callable[[T], Hashable], add: Callable[[T, T], T]
) -> tuple[T, ...]:
    """One for all with the same `labels`, sorted by them."""
    sums: dict[Hashable, T] = {}
    for one in counts:
        key = labels(one)
        sums[key] = add(sums[key], one) if key in sums else one
    return tuple(sums[key] for key in sorted(sums, key=str))


def _connections(a: ConnectionCount, b: ConnectionCount) -> ConnectionCount:
    return replace(
        a,
        opened=a.opened + b.opened,
        active=a.active + b.active,
        bytes_sent=a.bytes_sent + b.bytes_sent,
        bytes_received=a.bytes_received + b.bytes_received,
        seconds=a.seconds + b.seconds,
    )


def _latencies(a: Latency, b: Latency) -> Latency:
    counts = tuple(x + y for x, y in zip(a.counts, b.counts, strict=True))
    return replace(a, counts=counts, total=a.total + b.total)


def _retries(a: RetryCount, b: RetryCount) -> RetryCount:
    return replace(
        a,
        count=a.count + b.count,
        spared=a.spared + b.spared,
        hedged=a.hedged + b.hedged,
        won=a.won + b.won,
    )
