from __future__ import annotations

from fleetmesh.model.report import (
    BUCKETS,
    ConnectionCount,
    Direction,
    Ejected,
    EjectionCount,
    Latency,
    RefusalCount,
    Report,
    RequestCount,
    RetryCount,
)
from fleetmesh.plan.totals import retire, total

OUT = Direction.OUTBOUND


def report(number: int) -> Report:
    counts = tuple(number for _ in range(len(BUCKETS) + 1))
    return Report(
        pid=number,
        generation=number,
        requests=(RequestCount(OUT, "web", "api", 200, number),),
        connections=(ConnectionCount(OUT, "web", "api", "http", number, 1, 10 * number, 5, 0.5),),
        refusals=(RefusalCount(OUT, "web", "api", "denied", number),),
        latencies=(Latency(OUT, "web", "api", "", 2, counts, number / 10),),
        ejections=(EjectionCount("api", "5xx", number), EjectionCount("db", "probe", 1)),
        ejected=(Ejected("api", "n1/api", "5xx"), Ejected("api", f"m{number}/api", "probe")),
        retries=(RetryCount(OUT, "web", "api", "r", number, 10 * number),),
    )


def test_sums_by_label() -> None:
    other = Report(pid=9, generation=9, requests=(RequestCount(OUT, "web", "api", 503, 1),))
    whole = total((report(1), report(2), other))
    assert [(r.status, r.count) for r in whole.requests] == [(200, 3), (503, 1)]
    assert whole.connections == (ConnectionCount(OUT, "web", "api", "http", 3, 2, 30, 10, 1.0),)
    assert whole.refusals == (RefusalCount(OUT, "web", "api", "denied", 3),)
    assert whole.retries == (RetryCount(OUT, "web", "api", "r", 3, 30),)
    assert whole.latencies[0].counts == (3,) * (len(BUCKETS) + 1)
    assert round(whole.latencies[0].total, 6) == 0.3


def test_totals_never_go_down_when_a_worker_dies() -> None:
    before = total((report(1), report(2)))
    after = total((report(1), retire(report(2))))
    assert after.requests == before.requests
    assert after.connections[0].opened == before.connections[0].opened
    assert after.connections[0].seconds == before.connections[0].seconds
    assert after.connections[0].active == before.connections[0].active - 1


def test_who_is_ejected_is_told_with_the_number_of_workers_that_say_so() -> None:
    whole = total((report(1), report(2)))
    assert whole.ejections == (EjectionCount("api", "5xx", 3), EjectionCount("db", "probe", 2))
    assert whole.ejected == (
        Ejected("api", "m1/api", "probe", 1),
        Ejected("api", "m2/api", "probe", 1),
        Ejected("api", "n1/api", "5xx", 2),
    )
    after = total((report(1), retire(report(2))))
    assert after.ejections == whole.ejections
    assert [one.workers for one in after.ejected] == [1, 1]
