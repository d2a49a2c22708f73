"""The fuzzer's short form: `python -m tests.fuzz` is the long one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.fuzz.findings import Findings
from tests.fuzz.target import seed

EXECUTIONS = 2000  # from each start: two seconds


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("start", range(0, 50_000, 10_000))
def test_nothing_crashes_hangs_or_diverges(start: int, tmp_path: Path) -> None:
    """Legal messages and accidents in them, from either side: what goes on is what a strict reader
    reads in what came, and afterwards nothing is left of the exchange."""
    findings = Findings(tmp_path)
    for number in range(start, start + EXECUTIONS):
        findings.run(seed(Random(number)))
    assert findings.kinds == {}
    assert findings.through > EXECUTIONS / 2
