"""Numbers that a person wants to see even when every test passes."""

from __future__ import annotations

LINES: list[str] = []


class Evidence:
    """Collects one test's lines for the end of the report."""

    def __init__(self, test: str) -> None:
        self._test = test

    def __call__(self, line: str) -> None:
        LINES.append(f"{self._test}: {line}")
