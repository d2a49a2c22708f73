"""Schedules, targets and tables of a chaos run, without a fleet."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from tests.chaos.beside import Outcome, worse
from tests.chaos.faults import FAULTS, INSTANCES, SHORT
from tests.chaos.report import markdown, table, write
from tests.chaos.run import Row, misses, plan

GOOD = Row(
    fault="fast 500",
    victims=("api2",),
    requests=1000,
    failed=0,
    success=1.0,
    p50_before=4.0,
    p99_before=10.0,
    p50=4.0,
    p99=12.0,
    p99_late=11.0,
    share_late=0.01,
    lasted=15.0,
    away=0.5,
    back=3.0,
)


def test_a_seed_gives_the_same_schedule_and_another_another() -> None:
    assert plan(7, list(FAULTS)) == plan(7, list(FAULTS))
    assert plan(7, list(FAULTS)) != plan(8, list(FAULTS))


def test_everything_asked_for_happens_once() -> None:
    schedule = plan(1, list(FAULTS))
    assert sorted(one.fault.name for one in schedule) == sorted(FAULTS)
    for one in schedule:
        assert len(set(one.victims)) == one.fault.victims
        assert set(one.victims) <= set(INSTANCES)
    assert {one.fault.name for one in plan(1, SHORT)} == set(SHORT)


def test_each_target_is_held_against_its_own_figure() -> None:
    replace = dataclasses.replace
    for name, bad in (
        ("application killed", replace(GOOD, success=0.9998)),
        ("black hole", replace(GOOD, success=0.9989)),
        ("black hole", replace(GOOD, away=3.25)),
        ("black hole", replace(GOOD, away=None)),
        ("slow +2 s", replace(GOOD, p99_late=12.1)),
        ("slow +2 s", replace(GOOD, p99_late=math.nan)),
        ("fast 500", replace(GOOD, share_late=0.02)),
        ("agents restarted", replace(GOOD, success=0.99999)),
    ):
        assert misses(FAULTS[name].target, GOOD) == []
        assert len(misses(FAULTS[name].target, bad)) == 1, name


def test_tables_and_json_have_every_row(tmp_path: Path) -> None:
    rows = [GOOD, dataclasses.replace(GOOD, fault="CA rotated", p99=math.inf, missed=["p99"])]
    assert len(table(rows).splitlines()) == 3
    assert len(markdown(rows).splitlines()) == 4
    write(tmp_path / "a" / "run.json", {"rows": [row.plain() for row in rows]})
    read = json.loads((tmp_path / "a" / "run.json").read_text())
    assert [row["p99"] for row in read["rows"]] == [12.0, None]


def test_beside_envoy_the_medians_decide() -> None:
    ours = [Outcome(100, 1.0, 10.0, 1.0, 5.0, 0.0, 5.0)]
    assert worse(ours, ours) == []
    slower = [dataclasses.replace(ours[0], p99=15.0, late_p99=5.4)]
    assert len(worse(slower, ours)) == 1
    failing = [dataclasses.replace(ours[0], success=0.99)] * 2 + ours
    assert len(worse(failing, ours)) == 1
    assert worse(ours, failing) == []
