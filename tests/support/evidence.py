"""Numbers that a person wants to see even when every test passes."""

from __future__ import annotations

from collections import Counter
from typing import Any

LINES: list[str] = []
TABLES: dict[str, Counter[tuple[str, str]]] = {}


class Evidence:
    """Collects one test's lines for the end of the report."""

    def __init__(self, test: str) -> None:
        self._test = test

    def __call__(self, line: str) -> None:
        LINES.append(f"{self._test}: {line}")


def tally(table: str, row: str, *columns: str) -> None:
    """One more in these columns of the row, for tables that many tests fill."""
    counts = TABLES.setdefault(table, Counter())
    for column in columns:
        counts[row, column] += 1


def exported() -> Any:
    """Everything so far, in plain types, for another process to `add`."""
    return LINES, [(name, list(counts.items())) for name, counts in TABLES.items()]


def add(evidence: Any) -> None:
    lines, tables = evidence
    LINES.extend(lines)
    for name, counts in tables:
        for (row, column), count in counts:
            TABLES.setdefault(name, Counter())[row, column] += count


def report() -> list[str]:
    lines = list(LINES)
    for name, counts in TABLES.items():
        rows = sorted({row for row, _ in counts})
        columns = list(dict.fromkeys(column for _, column in sorted(counts, key=_order)))
        width = max(map(len, (name, *rows)))
        lines.append(f"{name:{width}}  " + "  ".join(columns))
        lines += [
            f"{row:{width}}  "
            + "  ".join(f"{counts[row, column]:{len(column)}}" for column in columns)
            for row in rows
        ]
    return lines


def _order(cell: tuple[str, str]) -> tuple[bool, str]:
    return cell[1] != "total", cell[1]
