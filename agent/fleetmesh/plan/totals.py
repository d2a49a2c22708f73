"""Reports of several workers, and of those that are gone, as one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleetmesh.model.report import (
    BUCKETS,
    ConnectionCount,
    Ejected,
    EjectionCount,
    Latency,
    RefusalCount,
    Report,
    RequestCount,
    RetryCount,
)


def total(reports: Iterable[Report]) -> Report:
    """The sums of all counts, sorted by their labels. `pid`, `generation` and `served` are a
    single worker's and are left empty."""
    requests: dict[tuple[object, ...], RequestCount] = {}
    connections: dict[tuple[object, ...], ConnectionCount] = {}
    refusals: dict[tuple[object, ...], RefusalCount] = {}
    retries: dict[tuple[object, ...], RetryCount] = {}
    latencies: dict[tuple[object, ...], Latency] = {}
    ejections: dict[tuple[object, ...], EjectionCount] = {}
    ejected: dict[tuple[object, ...], Ejected] = {}
    for report in reports:
        for r in report.requests:
            key: tuple[object, ...] = (r.direction, r.source, r.destination, r.route, r.status)
            had = requests[key].count if key in requests else 0
            requests[key] = RequestCount(
                r.direction, r.source, r.destination, r.status, had + r.count, r.route
            )
        for c in report.connections:
            key = (c.direction, c.source, c.destination, c.kind)
            connections[key] = _sum(connections.get(key), c)
        for f in report.refusals:
            key = (f.direction, f.source, f.destination, f.code)
            had = refusals[key].count if key in refusals else 0
            refusals[key] = RefusalCount(
                f.direction, f.source, f.destination, f.code, had + f.count
            )
        for again in report.retries:
            key = (again.direction, again.source, again.destination, again.route)
            known = retries.get(key)
            retries[key] = msgspec.structs.replace(
                again,
                count=again.count + (known.count if known else 0),
                spared=again.spared + (known.spared if known else 0),
            )
        for times in report.ejections:
            key = (times.service, times.reason)
            had = ejections[key].count if key in ejections else 0
            ejections[key] = msgspec.structs.replace(times, count=had + times.count)
        for out in report.ejected:
            key = (out.service, out.endpoint)
            had = ejected[key].workers if key in ejected else 0
            ejected[key] = msgspec.structs.replace(out, workers=had + out.workers)
        for latency in report.latencies:
            key = (
                latency.direction,
                latency.source,
                latency.destination,
                latency.route,
                latency.code_class,
            )
            before = latencies.get(key)
            counts = before.counts if before else (0,) * (len(BUCKETS) + 1)
            latencies[key] = msgspec.structs.replace(
                latency,
                counts=tuple(a + b for a, b in zip(counts, latency.counts, strict=True)),
                total=(before.total if before else 0.0) + latency.total,
            )
    return Report(
        pid=0,
        generation=0,
        requests=tuple(requests[key] for key in sorted(requests, key=str)),
        connections=tuple(connections[key] for key in sorted(connections, key=str)),
        refusals=tuple(refusals[key] for key in sorted(refusals, key=str)),
        latencies=tuple(latencies[key] for key in sorted(latencies, key=str)),
        retries=tuple(retries[key] for key in sorted(retries, key=str)),
        ejections=tuple(ejections[key] for key in sorted(ejections, key=str)),
        ejected=tuple(ejected[key] for key in sorted(ejected, key=str)),
    )


def retire(report: Report) -> Report:
    """What remains of a worker that is gone: its counts, but nothing active."""
    return Report(
        pid=0,
        generation=0,
        requests=report.requests,
        connections=tuple(
            ConnectionCount(
                c.direction,
                c.source,
                c.destination,
                c.kind,
                c.opened,
                0,
                c.bytes_sent,
                c.bytes_received,
                c.seconds,
            )
            for c in report.connections
        ),
        refusals=report.refusals,
        latencies=report.latencies,
        retries=report.retries,
        ejections=report.ejections,
    )


def _sum(before: ConnectionCount | None, more: ConnectionCount) -> ConnectionCount:
    if before is None:
        return more
    return ConnectionCount(
        more.direction,
        more.source,
        more.destination,
        more.kind,
        before.opened + more.opened,
        before.active + more.active,
        before.bytes_sent + more.bytes_sent,
        before.bytes_received + more.bytes_received,
        before.seconds + more.seconds,
    )
