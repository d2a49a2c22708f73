"""What was measured, as JSON, Markdown and a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.bench.install import versions
from tests.bench.plot import plot
from tests.bench.work import WORKS, Figures

from fleetmesh import __version__

OURS, THEIRS, FLOOR = "fleetmesh", "envoy", "direct"
UNSHARED = "unshared"

MARKS = ("<!-- figures: make bench ARGS=--document -->", "<!-- end of figures -->")

RATIOS = {
    "http_small_cpu": (OURS, "http_small", "cpu"),
    "http_4k_cpu": (OURS, "http_4k", "cpu"),
    "http_p99_at_1000": (OURS, "http_paced", "p99"),
    "http_max_rps": (OURS, "http_small", "rps"),
    "tcp_cpu_per_gb": (OURS, "tcp_bulk", "cpu"),
    "new_connection_cpu": (OURS, "new_connections", "cpu"),
    "new_handshake_cpu": (UNSHARED, "new_connections", "cpu"),
    "memory_loaded": (OURS, "http_small", "pss"),
}
"""Our median over Envoy's: contender, work and metric. Only of `http_max_rps` is more better."""

GOALS = {
    "http_small_cpu": 0.60,
    "http_4k_cpu": 0.65,
    "http_p99_at_1000": 1.0,
    "tcp_cpu_per_gb": 1.3,
    "new_connection_cpu": 1.3,
}


SHOWN = (
    ("http_small", "cpu", "CPU µs per request", 1e6, ".1f"),
    ("http_small", "rps", "requests/s, saturated", 1, ".0f"),
    ("http_4k", "cpu", "CPU µs per request", 1e6, ".1f"),
    ("http_64k", "cpu", "CPU µs per request", 1e6, ".1f"),
    ("http_paced", "cpu", "CPU µs per request", 1e6, ".1f"),
    ("http_paced", "p50", "p50 µs", 1, ".0f"),
    ("http_paced", "p90", "p90 µs", 1, ".0f"),
    ("http_paced", "p99", "p99 µs", 1, ".0f"),
    ("http_paced", "p999", "p99.9 µs", 1, ".0f"),
    ("http_paced", "p50_added", "p50 beyond direct's, µs", 1, ".0f"),
    ("http_paced", "p99_added", "p99 beyond direct's, µs", 1, ".0f"),
    ("http_bursts", "cpu", "CPU µs per request", 1e6, ".1f"),
    ("http_bursts", "p50", "p50 µs", 1, ".0f"),
    ("http_bursts", "p99", "p99 µs", 1, ".0f"),
    ("tcp_bulk", "cpu", "CPU-s per GB", 1, ".2f"),
    ("tcp_bulk", "gbit_per_s", "Gbit/s", 1, ".1f"),
    ("new_connections", "cpu", "CPU µs per connection", 1e6, ".0f"),
    ("new_connections", "per_cpu_second", "connections per CPU-second", 1, ".0f"),
    ("idle_connections", "pss", "memory, MiB PSS", 1 / 2**20, ".1f"),
    ("idle_connections", "p99", "p99 µs", 1, ".0f"),
    ("http_small", "pss", "memory, MiB PSS", 1 / 2**20, ".1f"),
)
"""Rows of the table: work, metric, what it is, factor, format."""


class Report:
    """`failures` are sentences. Figures come round by round."""

    def __init__(self, rounds: int, seconds: float | None) -> None:
        self.failures: list[str] = []
        self._values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        self._idle: dict[str, int] = {}
        self._header: dict[str, Any] = {
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "rounds": rounds,
            "seconds": seconds or {work.name: work.seconds for work in WORKS},
            "machine": _machine(),
            "versions": {"fleetmesh": __version__, **versions()},
        }

    def finish(self) -> None:
        """The run is over: how busy was the machine with other things, what is beyond the floor?"""
        others = [
            value
            for contenders in self._values.values()
            for metrics in contenders.values()
            for value in metrics.get("others", ())
        ]
        if others:
            self._header["machine"]["others' work meanwhile"] = (
                f"{statistics.median(others):.1f} cores (at most {max(others):.1f})"
            )
        paced = self._values.get("http_paced", {})
        for metric in ("p50", "p99"):
            floor = self._median("http_paced", FLOOR, metric)
            for name, metrics in paced.items():
                if floor is not None and name != FLOOR:
                    metrics[f"{metric}_added"] = [value - floor for value in metrics[metric]]

    def idle(self, contender: str, memory: int) -> None:
        self._idle[contender] = memory

    def add(self, work: str, contender: str, figures: Figures) -> None:
        values = self._values[work][contender]
        for metric, value in figures.items():
            values[metric].append(value)
        if work == "new_connections" and figures["cpu"]:
            values["per_cpu_second"].append(1 / figures["cpu"])
        if figures.get("errors"):
            self.failed(work, contender, f"{figures['errors']:.0f} requests failed")

    def failed(self, work: str, contender: str, why: str) -> None:
        self.failures.append(f"{work}, {contender}: {why}")

    def ratios(self) -> dict[str, float]:
        found = {}
        for key, (who, work, metric) in RATIOS.items():
            ours, theirs = self._median(work, who, metric), self._median(work, THEIRS, metric)
            if ours is not None and theirs:
                found[key] = round(ours / theirs, 3)
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            **self._header,
            "ratios": self.ratios(),
            "goals": GOALS,
            "memory_idle": self._idle,
            "work": {
                work: {
                    contender: {metric: _spread(v) for metric, v in metrics.items() if v}
                    for contender, metrics in contenders.items()
                }
                for work, contenders in self._values.items()
            },
            "failures": self.failures,
        }

    def write(self, directory: Path) -> list[Path]:
        """report.json, report.md, report.svg."""
        contents = {
            "report.json": json.dumps(self.as_dict(), indent=1) + "\n",
            "report.md": self._markdown(),
            "report.svg": self._plot(),
        }
        for name, text in contents.items():
            (directory / name).write_text(text)
        return [directory / name for name in contents]

    def document(self, page: Path) -> None:
        """Put the figures between the marks of `page`. Raises ValueError when it has none."""
        before, begin, rest = page.read_text().partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if not (begin and end):
            raise ValueError(f"{page} has no place for figures")
        page.write_text(f"{before}{begin}\n\n{self._figures()}\n{end}{after}")

    def table(self) -> str:
        """Medians with their range, and the ratios to Envoy, in Markdown."""
        names = list(dict.fromkeys(n for contenders in self._values.values() for n in contenders))
        titles = {work.name: work.title for work in WORKS}
        lines = [_row("work", "figure", *names), _row(*["---"] * (len(names) + 2))]
        for work, metric, what, factor, form in SHOWN:
            cells = []
            for name in names:
                values = [v * factor for v in self._of(work, name, metric)]
                if not values or (metric in ("cpu", "pss", "per_cpu_second") and not any(values)):
                    cells.append("")
                    continue
                low, middle, high = min(values), statistics.median(values), max(values)
                cells.append(f"**{middle:{form}}** ({low:{form}} to {high:{form}})")
            if any(cells):
                lines.append(_row(titles[work], what, *cells))
        idle = [f"**{self._idle[n] / 2**20:.1f}**" if n in self._idle else "" for n in names]
        lines.append(_row("just started", "memory, MiB PSS", *idle))
        ratios = self.ratios()
        if ratios:
            lines += ["", _row("fleetmesh over Envoy", "ratio", "goal"), _row("---", "---", "---")]
        for key, ratio in ratios.items():
            goal = f"≤ {GOALS[key]:.2f}" if key in GOALS else ""
            lines.append(_row(f"`{key}`", f"**{ratio:.2f}**", goal))
        lines += [f"\nFAILED: {failure}" for failure in self.failures]
        return "\n".join(lines)

    def _markdown(self) -> str:
        return f"# Benchmark\n\n{self._figures()}\n![CPU and latency](report.svg)\n"

    def _figures(self) -> str:
        header = self._header
        facts = {**header["machine"], **header["versions"]}
        return (
            f"{header['when']}, {header['rounds']} rounds: **median** (lowest to highest), both "
            f"hops together.\n\n{self.table()}\n\n"
            + "".join(f"- {key}: {value}\n" for key, value in facts.items())
        )

    def _plot(self) -> str:
        panels = []
        for work, metric, what, factor, form in SHOWN:
            if metric not in ("cpu", "p99"):
                continue
            bars = [
                (name, _spread([v * factor for v in self._of(work, name, metric)]), form)
                for name in self._values.get(work, {})
                if any(self._of(work, name, metric))
            ]
            if bars:
                panels.append((f"{next(w.title for w in WORKS if w.name == work)}: {what}", bars))
        return plot(panels)

    def _median(self, work: str, contender: str, metric: str) -> float | None:
        values = self._of(work, contender, metric)
        return statistics.median(values) if values else None

    def _of(self, work: str, contender: str, metric: str) -> list[float]:
        """Without making an entry of what was not measured."""
        return self._values.get(work, {}).get(contender, {}).get(metric, [])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


def _machine() -> dict[str, str]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{release}, Linux {platform.release()}",
        "Python": platform.python_version(),
    }
