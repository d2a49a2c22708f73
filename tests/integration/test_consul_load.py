from __future__ import annotations

import pytest
from tests.bench.consul_load import measure

pytestmark = pytest.mark.consul


async def test_watches_cost_nothing_while_nothing_changes_and_little_when_it_does() -> None:
    """The measurement in small: a change is brought to each agent that watches it, by itself."""
    quiet, busy = await measure(agents=3, upstreams=4, seconds=4)
    assert quiet.requests < 3
    assert busy.changes >= 1
    assert busy.requests < 60
