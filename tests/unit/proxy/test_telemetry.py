"""What a worker counts, as its report says it."""

from __future__ import annotations

import time

from fleetmesh.model.report import BUCKETS, Direction
from fleetmesh.proxy.telemetry import Telemetry

OUT = Direction.OUTBOUND


def test_requests_are_counted_by_route_and_status_and_timed_by_class() -> None:
    """Exact codes in the counter, their classes in the histogram."""
    telemetry = Telemetry()
    series = telemetry.series(OUT, "web", "api", "http")
    now = time.monotonic()
    for route, status, ago in (
        ("items", 200, 0.0),
        ("items", 204, 60.0),
        ("items", 503, 0.0),
        ("", 200, 0.0),
    ):
        series.answered(route, status, now - ago)
    report = telemetry.report(1, 1, ())
    counts = {(r.route, r.status): r.count for r in report.requests}
    assert counts == {("items", 200): 1, ("items", 204): 1, ("items", 503): 1, ("", 200): 1}
    timed = {(each.route, each.code_class): each for each in report.latencies}
    assert {key: sum(each.counts) for key, each in timed.items()} == {
        ("items", 2): 2,
        ("items", 5): 1,
        ("", 2): 1,
    }
    assert all(len(each.counts) == len(BUCKETS) + 1 for each in report.latencies)
    assert timed["items", 2].counts[-1] == 1
    assert timed["items", 2].total >= 60.0


def test_a_series_is_found_again() -> None:
    telemetry = Telemetry()
    assert telemetry.series(OUT, "a", "b", "http") is telemetry.series(OUT, "a", "b", "http")
    assert telemetry.series(OUT, "a", "b", "http") is not telemetry.series(OUT, "a", "c", "http")
