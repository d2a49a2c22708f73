"""What a person wants to see at the end of a run, with several processes too."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.evidence import LINES


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["evidence"] = LINES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    LINES.extend(getattr(node, "workeroutput", {}).get("evidence", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LINES:
        terminalreporter.section("what was measured")
        for line in LINES:
            terminalreporter.write_line(line)
