from __future__ import annotations

from msgspec.structs import replace

from fleetmesh.model.report import Ejection
from fleetmesh.plan.ejections import KnownEjections

FIRST = Ejection("api.default.dc1", 5.0, "node1/api", "5xx", 10.0)
OTHER = replace(FIRST, endpoint="node2/api", seconds=30.0)


def test_what_is_still_out_is_told_with_what_is_left_of_it() -> None:
    known = KnownEjections()
    known.learn((FIRST, OTHER), 100.0)
    assert known.current(104.0) == (replace(FIRST, seconds=6.0), replace(OTHER, seconds=26.0))
    assert known.current(115.0) == (replace(OTHER, seconds=15.0),)
    known.learn((replace(FIRST, seconds=20.0), replace(OTHER, reason="", seconds=0.0)), 108.0)
    assert known.current(110.0) == (replace(FIRST, seconds=18.0),)
    assert known.current(128.0) == ()
