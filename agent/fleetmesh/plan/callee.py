"""What a callee makes of a call: its intentions and rates, judged by the code that judges there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from fleetmesh.core.authz import Authorizer, Verdict
from fleetmesh.core.buckets import alone
from fleetmesh.core.ratelimit import RateLimiter, burst_of
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import Table
from fleetmesh.model.explanation import Decision
from fleetmesh.model.traffic import RateLimit
from fleetmesh.plan.defaults import Defaults
from fleetmesh.plan.intentions import for_destination, readable
from fleetmesh.plan.observed import Observed

HERE = "in force on this host"
LISTED = "the intentions that Consul lists to this agent"
ASKED = "Consul's answer alone: this agent has seen no intentions"
NOWHERE = "neither this agent nor Consul can tell"
LACKING = (
    "Consul decides otherwise than the intentions that it lists to this agent, so some are hidden "
    "from its token: Consul's decision stands"
)


class Callees:
    """Those whom the local service `source` calls. `consul` are Consul's own decisions on the
    source, by destination, as far as it was asked; `observed` None where nothing was."""

    def __init__(
        self, table: Table, observed: Observed | None, consul: Mapping[str, bool], source: str
    ) -> None:
        self._table = table
        self._observed = observed
        self._consul = consul
        self._source = source

    def decision(self, destination: str, head: RequestHead | None) -> Decision:
        """On `head` as it is forwarded, or on a connection. A callee that is not of this host has
        its intentions from the same list by the same code."""
        consul = self._consul.get(destination)
        authorizer, basis = self._authorizer(destination)
        if authorizer is None:
            if consul is None:
                return Decision(destination, None, "", NOWHERE)
            return Decision(destination, consul, _says(consul), ASKED, consul=consul)
        by_request = authorizer.rules(self._source) is not None
        verdict = authorizer.explain(self._source, head)
        told = _told(destination, verdict, basis, consul)
        # Of permissions Consul says only that they allow no connection.
        if basis == HERE or consul is None or by_request or consul == verdict.allowed:
            return told
        because = f"{_says(consul)}; as listed here: {told.because}"
        return replace(told, allowed=consul, because=because, note=LACKING)

    def rates(self, destination: str, head: RequestHead) -> Iterator[str]:
        """What limits requests such as `head`, in words: a callee of another host has it from the
        same entries."""
        for limit in RateLimiter(destination, self._limits(destination), alone()).limits_for(head):
            whose = "of each caller" if limit.per_caller else "of all callers"
            yield f"{limit.per_second:g}/s {whose}, {burst_of(limit)} at once: {limit.name}"

    def _limits(self, destination: str) -> tuple[RateLimit, ...]:
        local = self._table.services.get(destination)
        if local is not None:
            return local.service.rate_limits
        observed = self._observed
        if observed is None:
            return ()
        defaults = Defaults(observed.service_defaults, observed.proxy_defaults, ())
        return defaults.local(destination).rate_limits

    def _authorizer(self, destination: str) -> tuple[Authorizer | None, str]:
        local = self._table.services.get(destination)
        if local is not None:
            return local.authorizer, HERE
        observed = self._observed
        if observed is None or observed.intentions is None or observed.default_allow is None:
            return None, ""
        intentions = for_destination(destination, readable(observed.intentions)[0])
        return Authorizer(intentions, observed.default_allow), LISTED


def _told(destination: str, verdict: Verdict, basis: str, consul: bool | None) -> Decision:
    because = str(verdict)
    if verdict.ambiguous:
        because += f" (the request's {verdict.ambiguous} can be read in more than one way)"
    precedence = verdict.intention.precedence if verdict.intention else 0
    return Decision(destination, verdict.allowed, because, basis, precedence, verdict.rule, consul)


def _says(allowed: bool) -> str:
    return "Consul allows it" if allowed else "Consul denies it"
