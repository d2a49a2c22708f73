"""What a person wants to see at the end of a run, with several processes too."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.evidence import add, exported, report


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["evidence"] = exported()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    evidence = getattr(node, "workeroutput", {}).get("evidence")
    if evidence is not None:
        add(evidence)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := report():
        terminalreporter.section("what was measured")
        for line in lines:
            terminalreporter.write_line(line)
