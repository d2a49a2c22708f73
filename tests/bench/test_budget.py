"""A request costs the interpreter no more than its budget: counted, so that no clock decides.

After a change that is worth what it costs: `python -m tests.bench.replay --write`.
"""

from __future__ import annotations

import json
import sys

import pytest
from tests.bench.replay import BUDGET, WORKS, count


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="instructions are Python 3.11's")
@pytest.mark.parametrize("work", WORKS)
def test_a_request_stays_within_its_budget(work: str) -> None:
    budget = json.loads(BUDGET.read_text())[work]
    spent = count(work)
    assert {what: spent[what] for what in budget if spent[what] > budget[what]} == {}, budget
