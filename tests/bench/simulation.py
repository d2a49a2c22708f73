"""Balancing and ejection in simulated time: the worker's own tables, pickers and standings, many
callers, many endpoints, faults that come and go. The same seed gives the same run.

`python -m tests.bench.simulation` runs 1,000 endpoints for 100 callers by each policy, prints a
table and writes docs/balancing.svg.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from tests.bench.lines import Line, Panel, lines
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.table import Table, link
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Balancing

PLOT = Path(__file__).parents[2] / "docs/balancing.svg"
LANES: Final = 4  # requests that an endpoint serves at a time; others wait for them
SERVICE: Final = 0.1  # seconds on average, half of it by chance
LOAD: Final = 0.6  # of what all endpoints can take
SLOW: Final = 2.0  # seconds more for each request
BROKEN, WELL = 15, 40  # seconds: when some begin to misbehave, and when they are well again
END: Final = 70


SLOWED, FAILING, DEAD = "slow by 2 s", "500 at once", "refuses connections"
FAULTS: Final = (SLOWED, FAILING, DEAD)
Broken = dict[int, str]
"""Endpoints by number, and what is wrong with them."""


class Run(msgspec.Struct):
    """By second: `counts` of requests by endpoint, `failed` of those whose caller got no answer or
    a 500, `slowest` the time (seconds) within which 99 % were answered that began then."""

    policy: str
    broken: Broken
    counts: list[list[int]]
    failed: list[int]
    slowest: list[float]

    def spread(self, first: int, last: int) -> float:
        """The busiest of the endpoints that are always well, in multiples of the mean."""
        columns = enumerate(zip(*self.counts[first:last], strict=True))
        totals = [sum(column) for at, column in columns if at not in self.broken]
        return max(totals) / (sum(totals) / len(totals))

    def share(self, fault: str, second: int) -> float:
        """What those with `fault` get in the two seconds from there on, in multiples of a fair
        share."""
        rows = self.counts[second : second + 2]
        mine = [at for at, one in self.broken.items() if one == fault]
        fair = sum(map(sum, rows)) / len(rows[0]) * len(mine)
        return sum(row[at] for row in rows for at in mine) / fair

    def left(self, fault: str, share: float) -> int:
        """Seconds from the fault until they have less than `share` of a fair part."""
        times = range(BROKEN, WELL - 1)
        return next((at for at in times if self.share(fault, at) < share), WELL) - BROKEN

    def back(self, fault: str, share: float) -> int:
        """Seconds from the recovery until they have more than that."""
        times = range(WELL, END - 1)
        return next((at for at in times if self.share(fault, at) > share), END) - WELL


def everywhere(endpoints: int) -> Broken:
    """Two in a hundred have each of the faults."""
    return {at: FAULTS[at % 50] for at in range(endpoints) if at % 50 < len(FAULTS)}


def run(
    policy: str,
    endpoints: int,
    callers: int,
    broken: Broken,
    seed: int,
    weights: Sequence[int] = (),
    load: float = LOAD,
    service: float = SERVICE,
) -> Run:
    """Requests come by chance (Poisson), each to a caller by chance. An endpoint serves as many at
    a time as its weight says."""
    random = Random(seed)
    weights = weights or [1] * endpoints
    target = _state(policy, weights)
    tables = [link(target, 1, None, 0, seed=random.getrandbits(64)) for _ in range(callers)]
    free = [[0.0] * LANES * weight for weight in weights]
    found = Run(policy, broken, [[0] * endpoints for _ in range(END)], [0] * END, [0.0] * END)
    times: list[list[float]] = [[] for _ in range(END)]
    under_way: list[tuple[float, int, Any, Any, int, float]] = []
    rate = load * sum(weights) * LANES / service
    now, number, second = 0.0, 0, 0
    while now < END:
        now += random.expovariate(rate)
        while under_way and under_way[0][0] <= now:
            _complete(*heapq.heappop(under_way), found, times)
        if int(now) > second:
            second = int(now)
            for table in tables:
                for outliers in table.outliers.values():
                    outliers.tick(now)
        if now >= END:
            break
        number += 1
        place = _reach(random.choice(tables), random, now, second, found)
        if place is None:
            found.failed[second] += 1
            continue
        endpoint = place.endpoint.port - 1
        place.lane("web", False).pool.lend()
        fault = broken.get(endpoint) if BROKEN <= now < WELL else None
        status, end = 200, now + 0.001
        if fault == FAILING:
            status = 500
        else:
            takes = service / 2 + random.expovariate(2 / service)
            takes += SLOW if fault == SLOWED else 0.0
            end = max(now, free[endpoint][0]) + takes
            heapq.heapreplace(free[endpoint], end)
        heapq.heappush(under_way, (end, number, place, place.standing, status, now))
    for end, _, _, _, _, began in under_way:  # they wait for it beyond the run's end
        times[int(began)].append(end - began)
    for second, taken in enumerate(times):
        taken.sort()
        found.slowest[second] = taken[int(len(taken) * 0.99)] if taken else 0.0
    return found


def _reach(table: Table, random: Random, now: float, second: int, found: Run) -> Any:
    """As `proxy.dial` does: another endpoint where one refuses the connection, twice."""
    entry: TargetEntry = table.upstreams["api"].default.target
    clock = now - now % 0.25  # the plane's, which a sweep sets
    tried: list[str] = []
    for _ in range(3):
        place = entry.pick(tried, random.getrandbits(64), clock)
        assert place is not None
        endpoint = place.endpoint.port - 1
        found.counts[second][endpoint] += 1
        if found.broken.get(endpoint) != DEAD or not BROKEN <= now < WELL:
            return place
        assert place.standing is not None
        place.standing.unanswered(clock)
        tried.append(place.endpoint.id)
    return None


def _complete(
    now: float,
    _number: int,
    place: Any,
    standing: Any,
    status: int,
    began: float,
    found: Run,
    times: list[list[float]],
) -> None:
    place.lane("web", False).pool.lost()
    standing.answered(status, now - began, now)
    times[int(began)].append(now - began)
    if status >= 500:
        found.failed[int(began)] += 1


def _state(policy: str, weights: Sequence[int]) -> Snapshot:
    api = upstream("api", *range(1, len(weights) + 1))
    weighted = tuple(
        msgspec.structs.replace(endpoint, weight=weight)
        for endpoint, weight in zip(api.target.endpoints, weights, strict=True)
    )
    balanced = msgspec.structs.replace(api.target, balancing=Balancing(policy), endpoints=weighted)
    services = (local_service("web", 65000, None),)
    return snapshot(Authority(), services, (msgspec.structs.replace(api, target=balanced),))


MOST = 3.0
POLICIES = ("peak_ewma", "least_request", "round_robin", "random")


def plotted(runs: list[Run]) -> str:
    """The first run's broken endpoints, then what the policies differ in."""
    seconds = list(range(END - 2))
    first = runs[0]
    shares = [Line(fault, [first.share(fault, at) for at in seconds]) for fault in FAULTS]
    marks = [(BROKEN, "six in a hundred break"), (WELL, "all are well")]
    title = f"{len(first.counts[0])} endpoints, {first.policy}: share of the broken, 1 is fair"
    return lines(
        [
            Panel(title, shares, marks),
            Panel(
                "busiest of the other endpoints over 5 s, 1 is the mean",
                [
                    Line(one.policy, [one.spread(at, at + 5) for at in range(END - 5)])
                    for one in runs
                ],
                marks,
            ),
            Panel(
                f"99 % of the requests are answered within (s), {MOST:g} and more as {MOST:g}",
                [Line(one.policy, [min(s, MOST) for s in one.slowest]) for one in runs],
                marks,
            ),
            Panel(
                "failed requests each second",
                [Line(one.policy, [float(count) for count in one.failed]) for one in runs],
                marks,
            ),
        ]
    )


def table(runs: list[Run]) -> str:
    head = (
        "| policy | max/mean over 10 s | p99 before | p99 10 s after the faults "
        "| slow below a fifth | 500 below a fifth | dead below a fifth | highest share after |"
    )
    rows = [head, "| --- " * 8 + "|"]
    for one in runs:
        left = " | ".join(_seconds(one.left(fault, 0.2)) for fault in FAULTS)
        most = max(one.share(fault, at) for fault in FAULTS for at in range(WELL, END - 1))
        rows.append(
            f"| `{one.policy}` | {one.spread(3, 13):.2f} | {max(one.slowest[5:15]):.2f} s "
            f"| {_at_most(max(one.slowest[BROKEN + 10 : WELL]))} | {left} | {most:.1f} |"
        )
    return "\n".join(rows)


def _at_most(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < MOST else f"over {MOST:g} s"


def _seconds(count: int) -> str:
    return "never" if count >= WELL - BROKEN else f"{count} s"


def _large(policy: str) -> Run:
    return run(policy, 1000, 100, everywhere(1000), seed=6, service=SERVICE / 4)


def main() -> None:
    with Pool(2) as pool:
        runs = pool.map(_large, POLICIES, 1)
    print(table(runs))
    PLOT.write_text(plotted(runs))


if __name__ == "__main__":
    main()
