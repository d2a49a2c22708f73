from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from fleetmesh.edge.metrics import Figures, render
from fleetmesh.model.report import (
    BUCKETS,
    ConnectionCount,
    Direction,
    Ejected,
    EjectionCount,
    FaultCount,
    Latency,
    RefusalCount,
    Report,
    RequestCount,
    RetryCount,
)
from fleetmesh.model.status import WatchStatus

OUT, PLAIN = Direction.OUTBOUND, Direction.PLAIN
FIGURES = Figures(
    version="1.2.3",
    traffic=Report(
        pid=0,
        generation=0,
        requests=(RequestCount(OUT, "web", "api", 200, 7, "items"),),
        connections=(ConnectionCount(OUT, "web", "api", "http", 3, 1, 100, 50, 7.5),),
        refusals=(RefusalCount(PLAIN, "", "api", "plaintext", 2),),
        retries=(RetryCount(Direction.OUTBOUND, "web", "api", "r", 4, 5),),
        latencies=(Latency(OUT, "web", "api", "items", 2, (*(1 for _ in BUCKETS), 2), 12.5),),
        ejections=(EjectionCount("api", "5xx", 4), EjectionCount("db", "gateway", 1)),
        ejected=(Ejected("api", "a/api", "5xx", 2), Ejected("api", "b/api", "gateway")),
        faults=(
            FaultCount("", "web", "api", "delay", 2),
            FaultCount("f1", "web", "api", "delay", 3),
        ),
    ),
    expiries={"web": 3600.5},
    generations={1: 4, 2: 5},
    last_contact=1.5,
    consul_up=True,
    worker_restarts=1,
    capture_applied=False,
    watches=(WatchStatus("leaf:web", 61.0, 61.0, "refused"), WatchStatus("roots", 9.0, 0.0)),
    renewals={"web": 1},
    handshakes={"web": True, "api": False},
    faults={("api", "delay"): 1},
    bypass=90.0,
)


def samples(figures: Figures) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus reads the page."""
    families = text_string_to_metric_families(render(figures).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def labels(**more: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(more.items()))


def test_every_figure_stands_on_the_page() -> None:
    found = samples(FIGURES)
    call = {"direction": "outbound", "source": "web", "destination": "api"}
    struck = labels(source="web", destination="api", kind="delay")
    assert found["fleetmesh_faults_injected_total", struck] == 5
    assert found["fleetmesh_faults_active", labels(destination="api", kind="delay")] == 1
    assert found["fleetmesh_capture_bypass_seconds", ()] == 90
    assert found["fleetmesh_build_info", labels(version="1.2.3")] == 1
    assert found["fleetmesh_requests_total", labels(**call, route="items", code="200")] == 7
    assert found["fleetmesh_connections_total", labels(**call, kind="http")] == 3
    assert found["fleetmesh_connections_active", labels(**call, kind="http")] == 1
    assert found["fleetmesh_bytes_total", labels(**call, kind="http", flow="sent")] == 100
    assert found["fleetmesh_bytes_total", labels(**call, kind="http", flow="received")] == 50
    assert found["fleetmesh_connection_seconds_sum", labels(**call, kind="http")] == 7.5
    assert found["fleetmesh_connection_seconds_count", labels(**call, kind="http")] == 2
    assert found["fleetmesh_ejections_total", labels(destination="api", reason="5xx")] == 4
    assert found["fleetmesh_endpoints_ejected", labels(destination="api")] == 2
    assert found["fleetmesh_endpoints_ejected", labels(destination="db")] == 0
    plain = {"direction": "plain", "source": "", "destination": "api"}
    assert found["fleetmesh_refusals_total", labels(**plain, reason="plaintext")] == 2
    assert found["fleetmesh_certificate_expiry_seconds", labels(service="web")] == 3600.5
    assert found["fleetmesh_snapshot_generation", labels(worker="2")] == 5
    assert found["fleetmesh_consul_last_contact_seconds", ()] == 1.5
    assert found["fleetmesh_consul_up", ()] == 1
    assert found["fleetmesh_consul_stale_seconds", labels(watch="leaf:web")] == 61
    assert found["fleetmesh_consul_stale_seconds", labels(watch="roots")] == 0
    assert found["fleetmesh_certificate_renewal", labels(service="web")] == 1
    assert found["fleetmesh_certificate_served", labels(service="web")] == 1
    assert found["fleetmesh_certificate_served", labels(service="api")] == 0
    assert found["fleetmesh_worker_restarts_total", ()] == 1
    assert found["fleetmesh_capture_applied", ()] == 0


def test_buckets_are_cumulative_and_end_in_the_count() -> None:
    found = samples(FIGURES)
    name = "fleetmesh_request_duration_seconds"
    who = {"direction": "outbound", "source": "web", "destination": "api"}
    who |= {"route": "items", "class": "2xx"}
    assert found[f"{name}_bucket", labels(**who, le="0.001")] == 1
    assert found[f"{name}_bucket", labels(**who, le="10.0")] == len(BUCKETS)
    assert found[f"{name}_count", labels(**who)] == len(BUCKETS) + 2
    assert found[f"{name}_sum", labels(**who)] == 12.5
