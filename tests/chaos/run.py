"""One fault after another under load, in the order and on the victims that the seed says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from tests.chaos.faults import CALLER, FAULTS, INSTANCES, SERVICE, Fault, Target, heal
from tests.chaos.load import API, THROUGH, Load
from tests.chaos.measure import came_back, moved_away
from tests.support.fleet import ROOT, Fleet
from tests.support.hosts import eventually

BUILD = ROOT / "build/chaos"
OVERLAY = "tests/chaos/inventory"
ADDED = ("api3", "api4")
CALM = (4.0, 6.0)
"""Seconds of undisturbed load before a fault, drawn from the seed."""
BACK_WITHIN = 75.0
"""Seconds that victims are given to be used again."""
REST = 2.0
SLOW_MS = 250.0
"""A request that takes longer, or five times the p99 of before, feels the fault."""


@dataclass(frozen=True)
class Planned:
    fault: Fault
    victims: tuple[str, ...]
    calm: float


@dataclass
class Row:
    """What one fault did, in milliseconds and seconds; None is "never", for `back` also "did not
    go". `missed` are the targets that were."""

    fault: str
    victims: tuple[str, ...]
    requests: int
    failed: int
    success: float
    p50_before: float
    p99_before: float
    p50: float
    p99: float
    p99_late: float
    share_late: float
    lasted: float
    away: float | None
    back: float | None
    missed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        return asdict(self)


def plan(seed: int, names: Sequence[str]) -> list[Planned]:
    """The same seed and names give the same schedule."""
    source = random.Random(seed)
    ordered = [FAULTS[name] for name in FAULTS if name in names]
    source.shuffle(ordered)
    return [
        Planned(
            fault,
            tuple(sorted(source.sample(INSTANCES, fault.victims))),
            source.uniform(*CALM),
        )
        for fault in ordered
    ]


@contextmanager
def widened(fleet: Fleet, whole: bool) -> Iterator[Fleet]:
    """The lab with four instances of api, which may ask orders; afterwards as it was. With `whole`
    it is rolled out from nothing, and its end is the caller's."""
    both = ("-i", OVERLAY)
    added = () if whole else ("--limit", ":".join(ADDED))
    try:
        fleet.playbook("lab_up", *both, log=BUILD / "lab-up.log")
        fleet.__dict__.pop("hosts", None)
        fleet.playbook("site", *both, *added, log=BUILD / "site.log", timeout=900)
        with fleet.intention(SERVICE, "orders", "allow"):
            _await(fleet, INSTANCES, THROUGH)
            try:
                yield fleet
            finally:
                heal(fleet)
    finally:
        if not whole:
            for name in ADDED:
                fleet[name].run("consul leave; systemctl stop consul", check=False)
            fleet.playbook("lab_up", log=BUILD / "lab-narrow.log")
            fleet.__dict__.pop("hosts", None)
            for name in ADDED:
                fleet.consul("PUT", "/v1/catalog/deregister", {"Node": name})
            _await(fleet, [name for name in INSTANCES if name not in ADDED], API)


def _await(fleet: Fleet, instances: Sequence[str], url: str) -> None:
    """Consul 1.8 may take a minute to tell that what a check follows is well again."""

    def answering() -> set[str]:
        answers = [fleet[CALLER].curl(url, user="web") for _ in range(16)]
        return {one.instance.partition("/")[0] for one in answers}

    why = f"{', '.join(instances)} answer, and no other"
    eventually(lambda: answering() == set(instances), 90, why, every=0.5)


def run(
    fleet: Fleet, schedule: Sequence[Planned], rate: float, say: Callable[[Row], None]
) -> list[Row]:
    """Do what is planned, in order, under one load. Raises AssertionError when the load, or a
    fault's own doing, fails."""
    load = Load(fleet, rate, 3600.0)
    rows = []
    try:
        time.sleep(REST)
        for planned in schedule:
            rows.append(_one(fleet, load, planned))
            say(rows[-1])
    finally:
        load.finish()
    return rows


def _one(fleet: Fleet, load: Load, planned: Planned) -> Row:
    fault, victims = planned.fault, planned.victims
    calm = time.time()
    time.sleep(planned.calm)
    load.check()
    began = time.time()
    ended, trouble = 0.0, ""
    try:
        with fault.act(fleet, victims) as began:
            time.sleep(max(0.0, began + fault.seconds - time.time()))
            ended = time.time()
    except AssertionError as error:
        trouble = f"not done: {error}"
        ended = ended or time.time()
    healed = time.time()
    back: float | None = None
    while fault.gone and back is None and time.time() < healed + BACK_WITHIN:
        time.sleep(0.5)
        back = came_back(load.span(healed), victims, len(INSTANCES))
    time.sleep(REST)
    before = load.span(calm, began)
    during = load.span(began, ended)
    whole = load.span(began)
    limit = max(SLOW_MS, 5 * before.percentile(0.99))
    away = moved_away(during, victims, limit) if fault.gone else None
    late = during.since(min(fault.target.after, fault.seconds / 2))
    row = Row(
        fault=fault.name,
        victims=victims,
        requests=len(whole.requests),
        failed=len(whole.failures),
        success=whole.success,
        p50_before=before.percentile(0.5),
        p99_before=before.percentile(0.99),
        p50=during.percentile(0.5),
        p99=during.percentile(0.99),
        p99_late=late.percentile(0.99),
        share_late=late.share(victims),
        lasted=ended - began,
        away=away,
        back=back,
        failures=[
            f"{one.due - began:.2f} s: {one.status} {one.said} ({one.ms:.0f} ms)"
            for one in whole.failures[:20]
        ],
    )
    row.missed = [*misses(fault.target, row), *filter(None, [trouble])]
    return row


def misses(target: Target, row: Row) -> list[str]:
    """The targets that this row does not meet, in words."""
    found = []
    if target.success is not None and row.success < target.success:
        found.append(f"success {row.success:.4%} < {target.success:.2%}")
    if target.away is not None and (row.away is None or row.away > target.away):
        away = "never" if row.away is None else f"after {row.away:.2f} s"
        found.append(f"moved away {away}, not within {target.away:g} s")
    if target.p99 is not None and not row.p99_late <= target.p99 * row.p99_before:
        found.append(
            f"p99 {row.p99_late:.0f} ms after {target.after:g} s, {row.p99_before:.0f} ms before"
        )
    if target.share is not None and not row.share_late < target.share:
        found.append(f"share {row.share_late:.1%} after {target.after:g} s")
    return found
