"""How statuses and findings look: colours on a terminal, plain text in a pipe."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fleetmesh.cli.findings import Finding, Level, is_live, of_status, span, unreachable
from fleetmesh.model.release import Releases
from fleetmesh.model.report import Ejected
from fleetmesh.model.status import (
    HoldStatus,
    IdentityStatus,
    ServiceStatus,
    Status,
    WatchStatus,
    WorkerStatus,
)
from fleetmesh.model.traffic import Endpoint, Upstream

PIPE_WIDTH = 180
INDENT = 2
_STYLES = {
    Level.OK: "green",
    Level.SKIPPED: "dim",
    Level.WARNING: "yellow",
    Level.ERROR: "bold red",
}


def status(found: Status, out: TextIO) -> None:
    """The whole of `fleetmesh status`."""
    page = _Page(out)
    page.head(found)
    bad = [
        finding
        for finding in of_status(found) + unreachable(found.upstreams)
        if finding.level not in (Level.OK, Level.SKIPPED)
    ]
    for finding in bad:
        page.finding(finding)
    page.section("Services")
    page.table(SERVICE_HEAD, [_service_row(service) for service in found.services], "none declared")
    page.section("Identities")
    page.table(
        ("service", "certificate left", "workers", "handshake", "SPIFFE ID"),
        [_identity_row(service, found.workers) for service in found.services],
        "none",
    )
    page.section("Intentions")
    page.table(
        ("service", "callers"),
        [
            (service.name, ", ".join(service.intentions) or "none of its own")
            for service in found.services
        ],
        "no service",
    )
    page.line(f"  others: {'allowed' if found.default_allow else 'denied'} by default")
    page.section("Upstreams")
    ejected = {one.endpoint: one for one in found.ejected}
    page.table(
        ("service", "protocol", "endpoint", "address", "health", "weight", "meta"),
        [row for upstream in found.upstreams for row in _upstream_rows(upstream, ejected)],
        "none known",
    )
    page.section("Consul")
    now = time.time()
    page.table(
        ("what", "last answer", "stale", "error"),
        [_watch_row(watch, now) for watch in found.consul.watches],
        "nothing is asked yet",
    )
    page.section("Workers")
    page.table(
        ("pid", "generation", "connections", "memory", "restarts", ""),
        [_worker_row(worker) for worker in found.workers],
        "none running",
    )
    page.flush()


def findings(found: Iterable[Finding], out: TextIO) -> None:
    """The lines of `fleetmesh check`, with a remedy below each that has one."""
    page = _Page(out)
    for finding in found:
        page.finding(finding)
    page.flush()


def _release(found: Releases) -> str:
    others = [one for one in found.installed if one != found.running]
    return f"{found.running}; also here: {', '.join(others) or 'none'}"


class _Page:
    """Collects lines, so that trailing blanks of table cells never reach a pipe."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        terminal = out.isatty()
        self._console = Console(
            file=out, width=None if terminal else PIPE_WIDTH, highlight=False, soft_wrap=False
        )
        self._capture = self._console.capture()
        self._capture.__enter__()

    def flush(self) -> None:
        self._capture.__exit__(None, None, None)
        for line in self._capture.get().splitlines():
            self._out.write(line.rstrip() + "\n")

    def head(self, found: Status) -> None:
        where = f"{found.node or 'this host'} ({found.datacenter or 'datacenter not known yet'})"
        title = Text(f"fleetmesh {found.version} on {where}", style="bold")
        self._console.print(title)
        consul, capture = found.consul, found.capture
        contact = "no answer yet"
        if consul.last_contact is not None:
            contact = f"last answer {span(consul.last_contact)} ago"
        reach = "reachable" if consul.reachable else "NOT REACHABLE"
        rows = (
            ("agent", f"pid {found.pid}, up {span(found.uptime)}"),
            *([("release", _release(found.releases))] if found.releases else []),
            ("snapshot", f"generation {found.generation}, digest {found.digest or '-'}"),
            ("trust domain", found.trust_domain or "not known yet"),
            ("consul", f"{reach} at {consul.address}, {contact}"),
            ("capture", f"{capture.state}, {capture.rules} rules"),
            ("kernel TLS", found.kernel_tls or "not told"),
        )
        table = _grid()
        for name, value in rows:
            table.add_row(Text(name, style="dim"), Text(value))
        self._console.print(Padding(table, (0, 0, 0, INDENT)))

    def finding(self, finding: Finding) -> None:
        label = Text(f"{finding.level.value:<8}", style=_STYLES[finding.level])
        message = Text(f"{finding.subject}: {finding.message}")
        if finding.remedy:
            message.append(f"\n→ {finding.remedy}", style="dim")
        table = _grid()
        table.add_row(label, message)
        self._console.print(table)

    def section(self, title: str) -> None:
        self._console.print()
        self._console.print(Text(title, style="bold"))

    def line(self, text: str) -> None:
        self._console.print(Text(text))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str | Text]], empty: str) -> None:
        if not rows:
            self.line(f"  {empty}")
            return
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in head:
            table.add_column(name, overflow="fold")
        # As Text, for in a plain string [fd00::1] would be markup.
        cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        for row in cells:
            table.add_row(*row)
        if self._console.measure(table).maximum + INDENT <= self._console.width:
            self._console.print(Padding(table, (0, 0, 0, INDENT)))
            return
        for row in cells:
            self._console.print(Padding(_flowing(head, row), (0, 0, 0, INDENT)))


def _flowing(head: Sequence[str], row: Sequence[Text]) -> Table:
    """A row that is too wide for the terminal: `name value` pairs, wrapped, below its first."""
    flow = Text("  ").join(
        Text.assemble((name, "dim"), " ", cell)
        for name, cell in zip(head[1:], row[1:], strict=True)
        if cell.plain
    )
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=max(12, len(row[0].plain)), overflow="fold")
    table.add_column(overflow="fold")
    table.add_row(row[0], flow)
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


SERVICE_HEAD = ("service", "port", "protocol", "mode", "user", "outbound", "sidecar", "consul")


def holding(hold: HoldStatus) -> str:
    """What an operator did to a service, in a word."""
    if "maintenance" in hold.kinds:
        return "maintenance"
    return "draining" if hold.left is None else "drained"


def _service_row(service: ServiceStatus) -> tuple[str | Text, ...]:
    user = service.user or "-"
    if service.uid is not None:
        user = f"{user} ({service.uid})"
    name = service.name if service.id in ("", service.name) else f"{service.name} [{service.id}]"
    return (
        Text(name, style="bold"),
        str(service.port),
        service.protocol,
        service.mode,
        user,
        str(service.outbound_port or "-"),
        str(service.sidecar_port),
        _registration(service),
    )


def _registration(service: ServiceStatus) -> str | Text:
    if not service.registered:
        return Text("no", style="bold red")
    how = "registered" if not service.adopted else f"adopted [{service.adopted}]"
    if service.hold is None:
        return how
    return Text(f"{how}, {holding(service.hold)}", style="yellow")


def _identity_row(
    service: ServiceStatus, workers: Sequence[WorkerStatus]
) -> tuple[str | Text, ...]:
    identity = service.identity
    left = Text("no certificate", style="bold red")
    if identity.serial:
        seconds, life = identity.served()
        left = Text(f"{span(max(seconds, 0))} of {span(life)}")
    serving = sum(not worker.draining for worker in workers)
    workers_of = f"{identity.workers}/{serving}"
    return (service.name, left, workers_of, _handshake(identity), identity.spiffe_id)


def _handshake(identity: IdentityStatus) -> Text:
    shown = identity.handshake
    if shown is None:
        return Text("not seen yet", style="dim")
    if shown.wrong_for:
        what = "fails" if shown.error else "another one"
        return Text(f"{what} for {span(shown.wrong_for)}", style="bold red")
    return Text(f"the same, {span(shown.age)} ago")


def _watch_row(watch: WatchStatus, now: float) -> tuple[str | Text, ...]:
    """When it became stale is told by this host's clock."""
    answered = "never" if watch.answered is None else f"{span(watch.answered)} ago"
    stale = Text("no", style="green")
    if watch.stale:
        since = datetime.datetime.fromtimestamp(now - watch.stale).astimezone()
        stale = Text(f"{span(watch.stale)}, since {since:%Y-%m-%d %H:%M:%S}", style="yellow")
    return (watch.watch, answered, stale, watch.error)


def _upstream_rows(
    upstream: Upstream, ejected: Mapping[str, Ejected]
) -> list[tuple[str | Text, ...]]:
    first: tuple[str | Text, ...] = (
        Text(upstream.service, style="bold"),
        upstream.protocol.value,
    )
    endpoints = upstream.target.endpoints
    if not endpoints:
        return [(*first, Text("none", style="yellow"), "", "", "", "")]
    return [
        (*(first if index == 0 else ("", "")), *_endpoint_row(endpoint, ejected))
        for index, endpoint in enumerate(endpoints)
    ]


def _endpoint_row(endpoint: Endpoint, ejected: Mapping[str, Ejected]) -> tuple[str | Text, ...]:
    addresses = f"{_bracketed(endpoint.address)}:{endpoint.port}"
    if endpoint.address6 and endpoint.address6 != endpoint.address:
        addresses += f" {_bracketed(endpoint.address6)}:{endpoint.port}"
    health = Text(endpoint.health.value, style="green" if is_live(endpoint) else "bold red")
    if (out := ejected.get(endpoint.id)) is not None:
        workers = "1 worker" if out.workers == 1 else f"{out.workers} workers"
        health.append(f", ejected by {workers} ({out.reason})", style="yellow")
    return (
        endpoint.id,
        addresses,
        health,
        str(endpoint.weight),
        " ".join(f"{name}={value}" for name, value in sorted(endpoint.meta.items())),
    )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        str(worker.pid),
        str(worker.generation),
        str(worker.connections),
        f"{worker.memory / (1 << 20):.0f} MiB",
        str(worker.restarts),
        "draining" if worker.draining else "",
    )
