"""docs/operations.md declares an outcome for each failure, and names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAILURES = (
    "agent stopped",
    "agent crashed in a loop",
    "worker dead",
    "local Consul agent gone",
    "Consul's servers gone",
    "Consul's CA gone",
    "certificate expired",
    "DNS gone",
    "disk full",
    "out of file descriptors",
    "out of memory",
    "clock stepped a day ahead",
    "clock stepped a day back",
    "host rebooted",
)


def rows() -> list[list[str]]:
    text = (ROOT / "docs/operations.md").read_text()
    table = text.split("### What is declared for each failure\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_failure_has_a_row() -> None:
    names = [row[0] for row in rows()]
    for failure in FAILURES:
        assert sum(name.startswith(failure) for name in names) == 1, failure


def test_every_row_names_tests_that_there_are() -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "tests").glob("**/test_*.py"))
    for name, outcome, tests in rows():
        named = re.findall(r"`(test_\w+)`", tests)
        assert outcome, name
        assert named, name
        for test in named:
            assert re.search(rf"^(async )?def {test}\(", written, re.MULTILINE), test
