"""A run's table and its JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS
from tests.chaos.run import Row

HEAD = (
    "fault",
    "on",
    "requests",
    "failed",
    "success",
    "p50 ms",
    "p99 ms",
    "p99 before",
    "away s",
    "back s",
    "targets",
)


def cells(row: Row) -> tuple[str, ...]:
    goes = FAULTS[row.fault].gone
    return (
        row.fault,
        " ".join(row.victims) or "-",
        str(row.requests),
        str(row.failed),
        f"{row.success:.3%}",
        _ms(row.p50),
        _ms(row.p99),
        _ms(row.p99_before),
        _seconds(row.away) if goes else "-",
        _seconds(row.back) if goes else "-",
        "; ".join(row.missed) or "met",
    )


def table(rows: Sequence[Row]) -> str:
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    left = {0, 1, len(HEAD) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {os.uname().release}"


def write(file: Path, document: dict[str, Any]) -> None:
    """Infinite and undefined numbers become null, which is what JSON has for them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_plain(document), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"
