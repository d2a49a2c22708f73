"""The metrics page, in Prometheus' text format, and the health pages beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fleetmesh.model.report import BUCKETS, Report
from fleetmesh.model.status import WatchStatus

CALL = ("direction", "source", "destination")
ROUTED = (*CALL, "route")


class Figures(msgspec.Struct, frozen=True):
    """All that the page shows. `traffic` is the sum over workers, also over those that are gone;
    `expiries` are seconds left of the served leaf by service; `generations` by worker number;
    `last_contact` is seconds since Consul's last good answer, None before the first; `renewals`
    are by service what `plan.renewal` judges, `handshakes` whether the last one showed the
    certificate that workers were given. `dns` are queries by kind and result, `faults` those that
    are active by destination and kind; `bypass` is the seconds that capture is suspended yet."""

    version: str
    traffic: Report
    expiries: Mapping[str, float]
    generations: Mapping[int, int]
    last_contact: float | None
    consul_up: bool
    worker_restarts: int
    capture_applied: bool
    dns: Mapping[tuple[str, str], int] = {}
    watches: tuple[WatchStatus, ...] = ()
    renewals: Mapping[str, int] = {}
    handshakes: Mapping[str, bool] = {}
    faults: Mapping[tuple[str, str], int] = {}
    bypass: float = 0.0


def application(
    figures: Callable[[], Awaitable[Figures]], ready: Callable[[], bool]
) -> web.Application:
    """`/metrics`; `/healthz` answers while the agent lives, `/readyz` with 200 once every worker
    serves the newest snapshot."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=render(await figures()), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(text="no\n", status=503)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


def render(figures: Figures) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(figures))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        figures = self._figures
        yield InfoMetricFamily("fleetmesh_build", "This agent", value={"version": figures.version})
        yield from _traffic(figures.traffic)
        yield from _ejections(figures.traffic)
        yield from _faults(figures)
        yield _gauge(
            "fleetmesh_concurrency_limit",
            "Requests that an application gets at a time, where that adapts",
            "destination",
            ((one.service, one.limit) for one in figures.traffic.under_way if one.limit),
        )
        yield _gauge(
            "fleetmesh_certificate_expiry_seconds",
            "Seconds until the served certificate ends",
            "service",
            figures.expiries.items(),
        )
        yield _gauge(
            "fleetmesh_snapshot_generation",
            "Generation that a worker serves",
            "worker",
            ((str(worker), number) for worker, number in figures.generations.items()),
        )
        if figures.last_contact is not None:
            yield GaugeMetricFamily(
                "fleetmesh_consul_last_contact_seconds",
                "Seconds since Consul's last good answer",
                value=figures.last_contact,
            )
        yield GaugeMetricFamily(
            "fleetmesh_consul_up", "1 when Consul answers every watch", value=figures.consul_up
        )
        yield _gauge(
            "fleetmesh_consul_stale_seconds",
            "For how long what Consul told may be out of date, 0 while it answers",
            "watch",
            ((watch.watch, watch.stale) for watch in figures.watches),
        )
        yield _gauge(
            "fleetmesh_certificate_renewal",
            "0 when the certificate's renewal is in time, 1 when it is late, 2 when it failed",
            "service",
            figures.renewals.items(),
        )
        yield _gauge(
            "fleetmesh_certificate_served",
            "1 when handshakes with the sidecar port show the certificate given to workers",
            "service",
            figures.handshakes.items(),
        )
        yield CounterMetricFamily(
            "fleetmesh_worker_restarts",
            "Workers that died and were replaced",
            value=figures.worker_restarts,
        )
        yield GaugeMetricFamily(
            "fleetmesh_capture_applied",
            "1 when the capture rules are in force",
            value=figures.capture_applied,
        )
        yield GaugeMetricFamily(
            "fleetmesh_capture_bypass_seconds",
            "For how long capture is bypassed yet, 0 when it is not",
            value=figures.bypass,
        )
        queries = CounterMetricFamily(
            "fleetmesh_dns_queries", "DNS queries answered", labels=["kind", "result"]
        )
        for labels, count in sorted(figures.dns.items()):
            queries.add_metric(labels, count)
        yield queries


def _traffic(traffic: Report) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "fleetmesh_requests", "HTTP requests by the status answered", labels=[*ROUTED, "code"]
    )
    for r in traffic.requests:
        requests.add_metric([r.direction, r.source, r.destination, r.route, str(r.status)], r.count)
    yield requests
    retries = CounterMetricFamily(
        "fleetmesh_request_retries", "Times that a request was sent once more", labels=ROUTED
    )
    overflow = CounterMetricFamily(
        "fleetmesh_request_retries_overflow",
        "Times that it was not, for the retry budget was spent",
        labels=ROUTED,
    )
    hedges = CounterMetricFamily(
        "fleetmesh_request_hedges",
        "Times that a request was sent to another endpoint while it was under way",
        labels=ROUTED,
    )
    won = CounterMetricFamily(
        "fleetmesh_request_hedges_won",
        "Times that the other one's answer was the first",
        labels=ROUTED,
    )
    for again in traffic.retries:
        values = [again.direction, again.source, again.destination, again.route]
        retries.add_metric(values, again.count)
        overflow.add_metric(values, again.spared)
        hedges.add_metric(values, again.hedged)
        won.add_metric(values, again.won)
    yield from (retries, overflow, hedges, won)
    yield from _connections(traffic)
    refusals = CounterMetricFamily(
        "fleetmesh_refusals",
        "Requests and connections that the mesh ended",
        labels=[*CALL, "reason"],
    )
    for f in traffic.refusals:
        refusals.add_metric([f.direction, f.source, f.destination, f.code], f.count)
    yield refusals
    durations = HistogramMetricFamily(
        "fleetmesh_request_duration_seconds",
        "Time of whole requests",
        labels=[*ROUTED, "class"],
    )
    for latency in traffic.latencies:
        durations.add_metric(
            [
                latency.direction,
                latency.source,
                latency.destination,
                latency.route,
                f"{latency.code_class}xx",
            ],
            _cumulative(latency.counts),
            latency.total,
        )
    yield durations


def _ejections(traffic: Report) -> Iterable[Metric]:
    times = CounterMetricFamily(
        "fleetmesh_ejections",
        "Times that a worker left out an endpoint that fails",
        labels=["destination", "reason"],
    )
    for ejection in traffic.ejections:
        times.add_metric([ejection.service, ejection.reason], ejection.count)
    yield times
    services = [ejected.service for ejected in traffic.ejected]
    known = sorted({ejection.service for ejection in traffic.ejections})
    yield _gauge(
        "fleetmesh_endpoints_ejected",
        "Endpoints that at least one worker leaves out",
        "destination",
        ((service, services.count(service)) for service in known),
    )


def _faults(figures: Figures) -> Iterable[Metric]:
    struck = CounterMetricFamily(
        "fleetmesh_faults_injected",
        "Requests that an injected fault delayed or aborted",
        labels=["source", "destination", "kind"],
    )
    counts: dict[tuple[str, str, str], int] = {}
    for one in figures.traffic.faults:
        key = (one.source, one.destination, one.kind)
        counts[key] = counts.get(key, 0) + one.count
    for labels, count in sorted(counts.items()):
        struck.add_metric(labels, count)
    yield struck
    active = GaugeMetricFamily(
        "fleetmesh_faults_active", "Faults that are injected now", labels=["destination", "kind"]
    )
    for place, count in sorted(figures.faults.items()):
        active.add_metric(place, count)
    yield active


def _gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values:
        gauge.add_metric([value], number)
    return gauge


def _connections(traffic: Report) -> Iterable[Metric]:
    labels = [*CALL, "kind"]
    opened = CounterMetricFamily("fleetmesh_connections", "Connections opened", labels=labels)
    active = GaugeMetricFamily("fleetmesh_connections_active", "Connections open", labels=labels)
    bytes_ = CounterMetricFamily(
        "fleetmesh_bytes", "Payload, as the downstream end sees it", labels=[*labels, "flow"]
    )
    seconds = SummaryMetricFamily(
        "fleetmesh_connection_seconds", "How long connections that ended were open", labels=labels
    )
    for c in traffic.connections:
        values = [c.direction, c.source, c.destination, c.kind]
        opened.add_metric(values, c.opened)
        active.add_metric(values, c.active)
        bytes_.add_metric([*values, "sent"], c.bytes_sent)
        bytes_.add_metric([*values, "received"], c.bytes_received)
        seconds.add_metric(values, c.opened - c.active, c.seconds)
    yield from (opened, active, bytes_, seconds)


def _cumulative(counts: tuple[int, ...]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip(bounds, counts, strict=True):
        so_far += count
        buckets.append((bound, float(so_far)))
    return buckets
