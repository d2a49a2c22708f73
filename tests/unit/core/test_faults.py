"""Shares, order and counts of what was injected."""

from __future__ import annotations

import random

import pytest

from fleetmesh.core import faults
from fleetmesh.core.faults import Hits, linked
from fleetmesh.core.request import RequestHead
from fleetmesh.model.fault import Fault
from fleetmesh.model.report import FaultCount
from fleetmesh.model.traffic import FieldMatch


def request(**fields: str) -> RequestHead:
    head = RequestHead()
    head.begin_head()
    head.on_url(b"/")
    head.on_header(b"Host", b"api")
    for name, value in fields.items():
        head.on_header(name.replace("_", "-").encode(), value.encode())
    assert head.judge(b"GET", "1.1", 40) is None
    return head


def fault(fault_id: str, share: int, **more: object) -> Fault:
    given = {"delay": 1.0, "until": 100.0, **more}
    return Fault(fault_id, "api", ("web",), share, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [1, 500, 9_999])
def test_the_share_is_kept(share: int) -> None:
    rule = linked((fault("f", share),), {})["api"].rules[0]
    assert sum(rule.strikes(number) for number in range(10_000)) == share


def test_each_draws_for_itself_and_the_first_counts() -> None:
    """Of two that strike half each, the second has half of what the first leaves."""
    hits: Hits = {}
    both = linked((fault("one", 5_000), fault("two", 5_000, delay=0.0, abort=503)), hits)["api"]
    source = random.Random(6)
    for _ in range(8_000):
        both.strike("web", request(), 1.0, source.getrandbits(64))
    assert 3_800 < hits["one", "web", "api", "delay"] < 4_200
    assert 1_800 < hits["two", "web", "api", "abort"] < 2_200


def test_whom_it_concerns() -> None:
    wanted = (FieldMatch("x-user", exact="test"),)
    rule = linked((fault("f", 10_000, headers=wanted),), {})["api"].rules[0]
    assert rule.concerns("web", request(x_user="test"), 99.9)
    assert not rule.concerns("web", request(x_user="test"), 100.0)
    assert not rule.concerns("shop", request(x_user="test"), 1.0)
    assert not rule.concerns("web", request(x_user="tests"), 1.0)
    assert rule.line == b"x-fleetmesh-fault: delay;id=f\r\n"


def test_counts_of_what_is_over_are_put_together() -> None:
    hits: Hits = {
        ("one", "web", "api", "delay"): 2,
        ("two", "web", "api", "delay"): 3,
        ("three", "web", "api", "delay"): 4,
    }
    left = faults.kept(hits, (fault("three", 1),))
    assert set(faults.counts(left)) == {
        FaultCount("", "web", "api", "delay", 5),
        FaultCount("three", "web", "api", "delay", 4),
    }
