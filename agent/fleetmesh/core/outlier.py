"""Outliers: endpoints that fail where their peers do not get no requests for a while.

What an endpoint did is told to its `Standing`, whether it may have a request is asked of it too;
`Outliers` are the standings of one target's endpoints, which decide together how many may be out.
Times are seconds of one monotonic clock. Each worker judges by its own requests, and heeds what the
others of its host found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleetmesh.balance.hashing import mixed
from fleetmesh.balance.latency import Latency
from fleetmesh.core.observer import Observer
from fleetmesh.core.outlier_rules import (
    FAILED,
    FAILURE_RATE,
    GATEWAY,
    LATENCY,
    PROBE,
    UNANSWERED,
    Rules,
)
from fleetmesh.core.tail import Tail, p90, together

# How an endpoint stands.
STEADY: Final = 0
FRESH: Final = 1  # new, or back again: its share grows
EJECTED: Final = 2
PROBING: Final = 3  # ejected, with one request under way that decides

LEAST: Final = 0.1  # of its share, for a fresh one; Envoy's min_weight_percent
JITTER: Final = 0.25  # of an ejection's time, so that callers do not probe all at once
VOLUME: Final = 50  # answers in an interval before a rate means anything; Envoy's for percentages
TIMES_ITS_PEERS: Final = 2.0  # a failure rate below this multiple of its peers' is not its own


class Standing(Observer):
    """One endpoint's. `until` is when an ejection, or the patience with a probe, ends; `since` is
    when it was new or came back. `times` counts the ejections that are not yet forgotten. `tail` is
    kept where latency may eject; `bar` is what a probe's answer must keep to then, 0.0 without one.
    """

    __slots__ = (
        "_others",
        "_streaks",
        "_troubled",
        "answers",
        "bar",
        "endpoint_id",
        "failures",
        "latency",
        "reason",
        "since",
        "state",
        "tail",
        "times",
        "until",
    )

    def __init__(self, endpoint_id: str, others: Outliers) -> None:
        self.endpoint_id = endpoint_id
        self.latency = Latency()
        self.state = STEADY
        self.reason = ""
        self.since = 0.0
        self.until = 0.0
        self.times = 0
        self.answers = 0
        self.failures = 0
        self.tail = Tail()
        self.bar = 0.0
        self._streaks: dict[str, int] = {}  # empty until something fails: there are many of these
        self._troubled = False
        self._others = others

    def joins(self, others: Outliers) -> None:
        self._others = others

    # What it did.

    def answered(self, status: int, seconds: float, now: float) -> None:
        """The head of an answer came after so many seconds. A failure may be quick for the work
        that was not done: it does not make an endpoint the better choice."""
        self.answers += 1
        if status < 500:
            self.tail.observe(seconds)
            if self._troubled:
                self._well(now, seconds)
            self.latency.observe(seconds, now)
            return
        self._no_quicker(seconds, now)
        self._streaks.pop(UNANSWERED, 0)
        if 502 <= status <= 504:
            self._failed((FAILED, GATEWAY), now)
        else:
            self._streaks.pop(GATEWAY, 0)
            self._failed((FAILED,), now)

    def shed(self, seconds: float, now: float) -> None:
        """No failure, and no reason to send it more."""
        self.answers += 1
        self._no_quicker(seconds, now)
        if self.state == PROBING:
            self._well(now, seconds)

    def unanswered(self, now: float) -> None:
        """It could not be reached, ended the connection before an answer, or let the time pass."""
        self.answers += 1
        self._failed((UNANSWERED,), now)

    def waited(self, seconds: float, now: float) -> None:
        """An answer would have taken longer than that: its caller did not wait, or it failed."""
        self.tail.observe(seconds)
        self._no_quicker(seconds, now)

    def broke_off(self) -> None:
        """An answer that had begun did not come to its end."""
        self.failures += 1

    def reached(self, now: float) -> None:
        """A connection that nothing more is known of was opened."""
        self.answers += 1
        if self._troubled:
            self._well(now, 0.0)

    def _no_quicker(self, seconds: float, now: float) -> None:
        if seconds > self.latency.estimate(now):
            self.latency.observe(seconds, now)

    def _well(self, now: float, seconds: float) -> None:
        self._troubled = False
        self.forgive()
        if self.state != PROBING:
            return
        if 0.0 < self.bar < seconds:
            self._others.eject(self, PROBE, now)
        else:
            self._others.returned(self, now)

    def _failed(self, kinds: tuple[str, ...], now: float) -> None:
        self._troubled = True
        self.failures += 1
        if self.state == EJECTED:
            return  # asked before it was
        if self.state == PROBING:
            self._others.eject(self, PROBE, now)
            return
        limits = self._others.rules.limits
        for kind in reversed(kinds):  # the more exact one first
            streak = self._streaks[kind] = self._streaks.get(kind, 0) + 1
            if 0 < limits[kind] <= streak and self._others.fails(self, kind, now):
                return

    # What it may get.

    def admits(self, number: int, now: float) -> bool:
        """Whether it takes a request that was picked for it; `number` has 64 bits as good as
        random. A request that an ejection's end lets through is the probe."""
        state = self.state
        if state == STEADY:
            return True
        if state == FRESH:
            share = (now - self.since) / self._others.rules.slow_start
            return (mixed(number) & 0xFFFF) < 0x10000 * max(share, LEAST)
        if now < self.until:
            return self._others.panic
        self.state = PROBING
        self.until = now + self._others.rules.seconds
        self._troubled = True
        return True

    def silent(self) -> bool:
        return self.out and self.reason == UNANSWERED

    @property
    def out(self) -> bool:
        return self.state >= EJECTED

    def given_up(self) -> bool:
        return self.out and not self._others.panic

    def put(self, state: int, reason: str, since: float, until: float) -> None:
        self.state, self.reason, self.since, self.until = state, reason, since, until
        if state == EJECTED:
            self.forgive()
        else:
            self.bar = 0.0

    def forgive(self) -> None:
        """Failures in a row are counted anew."""
        self._streaks.clear()

    def next_interval(self, now: float, interval: float) -> None:
        """Counts begin anew, and one ejection is forgotten for every interval without one."""
        self.answers = self.failures = 0
        self.tail.forget()
        if self.times and not self.out and now - self.since >= interval:
            self.times -= 1


class Outliers:
    """`unsteady`: some standing is not STEADY, so that it must be asked. `panic`: so few are left
    that all serve, whoever is out, until more of them are well. `counts` are ejections by
    service and reason, `news` those since they were last taken: endpoint, reason (empty for a
    return) and seconds."""

    __slots__ = (
        "_judged",
        "_random",
        "counts",
        "news",
        "panic",
        "rules",
        "service",
        "standings",
        "unsteady",
    )

    def __init__(
        self, service: str, rules: Rules, seed: int, counts: dict[tuple[str, str], int]
    ) -> None:
        self.service = service
        self.rules = rules
        self.counts = counts
        self.standings: list[Standing] = []
        self.unsteady = False
        self.panic = False
        self.news: list[tuple[str, str, float]] = []
        self._random = seed
        self._judged = 0.0

    def hold(self, standings: Sequence[Standing], rules: Rules, now: float) -> None:
        """From now on these. Who is new among others that are not begins with a small share."""
        self.rules = rules
        known = set(map(id, self.standings))
        fresh = [one for one in standings if id(one) not in known]
        for one in standings:
            one.joins(self)
        if rules.slow_start > 0.0 and len(fresh) < len(standings):
            for one in fresh:
                one.put(FRESH, "", now, 0.0)
        self.standings = list(standings)
        self._survey(now)

    def fails(self, standing: Standing, reason: str, now: float) -> bool:
        """`standing` has reached a limit; whether it is ejected for it."""
        if self.rules.enforced < 100 and self._draw() % 100 >= self.rules.enforced:
            standing.forgive()
            return False
        return self.eject(standing, reason, now)

    def eject(self, standing: Standing, reason: str, now: float) -> bool:
        """Not when too many are out: whoever is left would have to carry what they cannot."""
        rules = self.rules
        if not standing.out and not self._has_room():
            return False
        standing.times += 1
        seconds = min(rules.seconds * standing.times, rules.max_seconds)
        seconds *= 1.0 + JITTER * (self._draw() & 0xFFFF) / 0x10000
        why = standing.reason if reason == PROBE else reason
        standing.put(EJECTED, why, now, now + seconds)
        self._survey(now)
        self.counts[self.service, reason] = self.counts.get((self.service, reason), 0) + 1
        self.news.append((standing.endpoint_id, reason, seconds))
        return True

    def _has_room(self) -> bool:
        """Whether another may be out."""
        percent = self.rules.max_ejection_percent
        out = sum([one.out for one in self.standings])
        return out < (max(len(self.standings) * percent // 100, 1) if percent else 0)

    def returned(self, standing: Standing, now: float) -> None:
        """Its probe was answered."""
        self.news.append((standing.endpoint_id, "", 0.0))
        self._restore(standing, now)

    def _restore(self, standing: Standing, now: float) -> None:
        state = FRESH if self.rules.slow_start > 0.0 else STEADY
        standing.put(state, "", now, 0.0)
        self._survey(now)

    def heard(self, endpoint_id: str, reason: str, seconds: float, now: float) -> None:
        """Another worker of this host ejected an endpoint for so many seconds, or had it answer its
        probe: then `reason` is empty. That is no news of ours, and how many may be out holds."""
        standing = next((one for one in self.standings if one.endpoint_id == endpoint_id), None)
        if standing is None:
            return
        if not reason:
            if standing.out:
                self._restore(standing, now)
        elif standing.out or self._has_room():
            standing.times += 1
            why = standing.reason if reason == PROBE and standing.reason else reason
            standing.put(EJECTED, why, now, now + seconds)
            self._survey(now)

    def tick(self, now: float) -> None:
        """About once a second."""
        if self.unsteady:
            self._survey(now)
        if now - self._judged >= self.rules.interval:
            self._judged = now
            self._judge_rates(now)
            self._judge_latencies(now)
            for one in self.standings:
                one.next_interval(now, self.rules.interval)

    def _survey(self, now: float) -> None:
        slow_start = self.rules.slow_start
        for one in self.standings:
            if one.state == FRESH and now - one.since >= slow_start:
                one.put(STEADY, "", one.since, 0.0)
        self.unsteady = any(one.state != STEADY for one in self.standings)
        well = sum([not one.out for one in self.standings]) if self.unsteady else 0
        least = self.rules.panic_threshold * len(self.standings)
        self.panic = self.unsteady and 100 * well < least

    def _judge_rates(self, now: float) -> None:
        """Who failed much more often than its peers together. Where all fail the cause is none
        of theirs, and where nobody else was asked there is nothing to compare with."""
        least = self.rules.failure_rate
        if least <= 0.0:
            return
        answers = sum([one.answers for one in self.standings])
        failures = sum([one.failures for one in self.standings])
        for one in self.standings:
            others = answers - one.answers
            if one.out or one.answers < VOLUME or others < VOLUME:
                continue
            rate = one.failures / one.answers
            if rate >= max(least, TIMES_ITS_PEERS * (failures - one.failures) / others):
                self.eject(one, FAILURE_RATE, now)

    def _judge_latencies(self, now: float) -> None:
        """Whose slow end stands far above that of its peers together. While all are slow the cause
        is none of theirs."""
        rules = self.rules
        if rules.latency_multiple <= 0.0:
            return
        everything = together([one.tail for one in self.standings])
        for one in self.standings:
            own = one.tail.counts
            if one.out or sum(own) < VOLUME or sum(everything) - sum(own) < VOLUME:
                continue
            others = [total - mine for total, mine in zip(everything, own, strict=True)]
            bar = max(rules.latency_floor, rules.latency_multiple * p90(others))
            if p90(own) >= bar and self.eject(one, LATENCY, now):
                one.bar = bar

    def _draw(self) -> int:
        self._random = mixed(self._random)
        return self._random
