"""A snapshot and a question → what becomes of it, step by step.

The snapshot is linked as a worker links it, and every decision is asked of the table that comes of
that: matchers, ways, pickers, authorisers. Nothing is decided here a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fleetmesh.core.detect import SERVER_FIRST_PORTS
from fleetmesh.core.entry import LocalEntry, UpstreamEntry
from fleetmesh.core.request import RequestHead
from fleetmesh.core.route_rules import WHOLE
from fleetmesh.core.table import Table, link
from fleetmesh.core.way import Way
from fleetmesh.model.explanation import (
    Explanation,
    IdentityState,
    LegState,
    Outcome,
    Question,
    RuleState,
)
from fleetmesh.model.fault import Fault
from fleetmesh.model.problem import Problem
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Ejected
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Protocol, Split, Upstream
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.callee import Callees
from fleetmesh.plan.criteria import judged
from fleetmesh.plan.destination import find
from fleetmesh.plan.faults import active
from fleetmesh.plan.leg import Legs
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.outs import Reasons, reasons
from fleetmesh.settings import HttpSettings, UpstreamSettings


class Knowledge(msgspec.Struct, frozen=True):
    """What is known beside the snapshot. `observed` None: of Consul nothing; `consul` are its own
    decisions on the source, by destination; `plain` all registrations, by service;
    `ejected` what workers leave out, `faults` what is injected; `now` is in seconds since the
    epoch, `monotonic` of the clock that faults end by."""

    now: float
    generation: int = 0
    http: HttpSettings = HttpSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    observed: Observed | None = None
    consul: Mapping[str, bool] = {}
    plain: Mapping[str, tuple[Instance, ...]] = {}
    ejected: tuple[Ejected, ...] = ()
    faults: tuple[Fault, ...] = ()
    monotonic: float = 0.0


def explain(
    snapshot: Snapshot, question: Question, knowledge: Knowledge
) -> Explanation | list[Problem]:
    table = link(snapshot, knowledge.generation, None, 0, knowledge.upstream)
    caller = table.services.get(question.source)
    if caller is None:
        known = ", ".join(table.services) or "none"
        rule = f"{question.source} is no service of this host"
        return [Problem("--from", rule, f"Ask where it is declared; declared here: {known}")]
    return _Walk(table, caller, question, knowledge).explanation()


class _Walk:
    def __init__(
        self, table: Table, caller: LocalEntry, question: Question, knowledge: Knowledge
    ) -> None:
        self._table = table
        self._caller = caller
        self._question = question
        self._knowledge = knowledge
        self._found, self._entry = find(table, question)
        self._identity = identity(caller, knowledge.now)

    def explanation(self) -> Explanation:
        entry, question = self._entry, self._question
        if entry is None:
            return self._outside()
        upstream = entry.upstream
        by_request = bool(question.method) and _reads_http(upstream.protocol, question.port)
        notes = _notes(upstream, question)
        base = Explanation(
            question=question,
            outcome=Outcome.REFUSED,
            reason="",
            found=self._found,
            identity=self._identity,
            generation=self._knowledge.generation,
            upstream=upstream.service,
            protocol=upstream.protocol.value,
            kind="http" if by_request else "tcp",
            notes=tuple(notes),
        )
        if not self._identity.serial:
            return _refused(base, Refusal.NO_IDENTITY)
        if not by_request:
            return self._concluded(base, entry, None)
        head, refusal = request_head(question, self._knowledge.http.max_headers)
        if refusal is not None:
            return _refused(base, refusal)
        return self._concluded(base, entry, head)

    def _outside(self) -> Explanation:
        strict = self._table.snapshot.mesh_destinations_only
        refusal = Refusal.UNKNOWN_DESTINATION
        return Explanation(
            question=self._question,
            outcome=Outcome.REFUSED if strict else Outcome.PASSES,
            reason=f"{refusal.code}: {refusal.sentence}"
            if strict
            else "not the mesh's: it passes untouched, without an identity",
            found=self._found,
            identity=self._identity,
            generation=self._knowledge.generation,
            kind="" if strict else "passthrough",
        )

    def _concluded(
        self, base: Explanation, entry: UpstreamEntry, head: RequestHead | None
    ) -> Explanation:
        knowledge = self._knowledge
        known = reasons(knowledge.observed, entry.upstream.service, knowledge.ejected)
        number = -1
        if head is not None and entry.matcher is not None:
            number = entry.matcher.find(head.method, head.target, head)
        legs = self._legs(entry, number, head, known)
        outcome, reason = _conclusion(legs)
        struck = (
            active(
                knowledge.faults,
                entry.upstream.service,
                self._question.source,
                head,
                knowledge.monotonic,
            )
            if head is not None
            else ()
        )
        return msgspec.structs.replace(
            base,
            notes=(*base.notes, *struck),
            outcome=outcome,
            reason=reason,
            rules=_rules(entry, number, head),
            route=entry.ways[number].name if head is not None else "",
            decided_by=_decided_by(entry, number, head),
            legs=legs,
        )

    def _legs(
        self, entry: UpstreamEntry, number: int, head: RequestHead | None, known: Reasons
    ) -> tuple[LegState, ...]:
        knowledge = self._knowledge
        callees = Callees(self._table, knowledge.observed, knowledge.consul, self._question.source)
        legs = Legs(entry, self._question, knowledge.http, known, callees)
        if head is None:
            return (legs.connection(),)
        way = entry.ways[number]
        upstream = entry.upstream
        route = upstream.routes[number] if number >= 0 else None
        splits = route.splits if route is not None else upstream.splits
        return tuple(
            legs.request(
                share,
                one,
                way,
                route,
                split,
                request_head(self._question, knowledge.http.max_headers)[0],
                known.steps(one.target.id, number, at),
            )
            for share, one, split, at in shares(way, splits)
        )


def shares(way: Way, splits: Sequence[Split]) -> list[tuple[int, Way, Split | None, int]]:
    """Every way that a request of `way` may go, each as it is drawn, with its share, its split and
    that one's number."""
    if not way.divided:
        return [(WHOLE, way, None, 0)]
    found: list[tuple[int, Way, Split | None, int]] = []
    start = 0
    for number, split in enumerate(splits):
        if split.weight > 0:
            found.append((split.weight, way.drawn(start), split, number))
            start += split.weight
    return found


def request_head(question: Question, most: int) -> tuple[RequestHead, Refusal | None]:
    """As a parser would have it, judged; `most` fields may be in it."""
    head = RequestHead()
    head.on_url(question.target.encode())
    if all(name.lower() != "host" for name, _ in question.headers):
        host = f"[{question.host}]" if ":" in question.host else question.host
        if question.port != 80:
            host += f":{question.port}"
        head.on_header(b"Host", host.encode())
    for name, value in question.headers:
        head.on_header(name.encode(), value.encode())
    return head, head.judge(question.method.encode(), "1.1", most)


def identity(caller: LocalEntry, now: float) -> IdentityState:
    leaf = caller.service.leaf
    if leaf is None:
        return IdentityState(caller.spiffe_id)
    return IdentityState(caller.spiffe_id, leaf.serial, leaf.not_after, leaf.not_after - now)


def entry_of(upstream: Upstream, name: str) -> str:
    """Where a rule stands: `name` is `<service>/<number>` if it came from Consul."""
    service, slash, number = name.rpartition("/")
    if slash and service == upstream.service and number.isdecimal():
        return f"service-router/{service}: Routes[{number}]"
    return f"route {name}"


def _rules(entry: UpstreamEntry, number: int, head: RequestHead | None) -> tuple[RuleState, ...]:
    """Those that were asked: as far as the one that decided, or all."""
    routes = entry.upstream.routes
    if head is None:
        return ()
    asked = routes if number < 0 else routes[: number + 1]
    return tuple(
        RuleState(
            route.name,
            entry_of(entry.upstream, route.name),
            judged(route.match, head),
            at == number,
        )
        for at, route in enumerate(asked)
    )


def _decided_by(entry: UpstreamEntry, number: int, head: RequestHead | None) -> str:
    upstream = entry.upstream
    if number >= 0:
        return entry_of(upstream, upstream.routes[number].name)
    if head is None:
        return "a connection has no route"
    if upstream.routes:
        return f"no rule of service-router/{upstream.service} matches: its last one takes the rest"
    return f"{upstream.service} has no routes"


def _reads_http(protocol: Protocol, port: int) -> bool:
    """Whether what is HTTP on a connection to `port` is taken for it."""
    found_out = protocol is Protocol.AUTO and port not in SERVER_FIRST_PORTS
    return protocol is Protocol.HTTP or found_out


def _notes(upstream: Upstream, question: Question) -> list[str]:
    notes = []
    if question.method and upstream.protocol is Protocol.TCP:
        notes.append(
            f"{upstream.service} is tcp: bytes are relayed, no route or permission sees the request"
        )
    if not question.method and upstream.protocol is Protocol.HTTP:
        notes.append(
            f"{upstream.service} is http: its requests are routed and judged one by one, and what "
            "is no HTTP is refused; ask `fleetmesh explain http`"
        )
    if question.method and upstream.protocol is Protocol.AUTO:
        if _reads_http(upstream.protocol, question.port):
            notes.append("the protocol is found out from the first bytes: these are HTTP")
        else:
            notes.append(f"on port {question.port} servers speak first: it is carried as tcp")
    own = upstream.target
    if own.service != upstream.service and not upstream.splits:
        notes.append(
            f"service-resolver/{upstream.service} redirects to {own.service} what no route takes "
            "elsewhere"
        )
    return notes


def _refused(base: Explanation, refusal: Refusal) -> Explanation:
    return msgspec.structs.replace(base, reason=f"{refusal.code}: {refusal.sentence}")


def _conclusion(legs: Sequence[LegState]) -> tuple[Outcome, str]:
    """Of all the ways that it may go."""
    ends = [(_end(leg), leg) for leg in legs]
    outcomes = {outcome for (outcome, _), _ in ends}
    reasons = list(dict.fromkeys(reason for (_, reason), _ in ends if reason))
    if len(outcomes) == 1:
        return outcomes.pop(), "; ".join(reasons)
    if Outcome.ALLOWED not in outcomes:
        unknown = Outcome.UNKNOWN in outcomes
        return Outcome.UNKNOWN if unknown else Outcome.REFUSED, "; ".join(reasons)
    served = sum(leg.share for (outcome, _), leg in ends if outcome is Outcome.ALLOWED)
    return Outcome.PARTLY, f"{served / 100:g} % are served; " + "; ".join(reasons)


def _end(leg: LegState) -> tuple[Outcome, str]:
    if leg.refusal:
        sentence = next(one.sentence for one in Refusal if one.code == leg.refusal)
        return Outcome.REFUSED, f"{leg.refusal}: {sentence} for {leg.target.id}"
    decision = leg.decision
    if decision is None or decision.allowed is None:
        return Outcome.UNKNOWN, "whether the callee's intentions allow it is not known here"
    if not decision.allowed:
        return Outcome.DENIED, decision.because
    return Outcome.ALLOWED, ""
