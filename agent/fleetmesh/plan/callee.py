"""What a callee makes of a call: its intentions, judged by the code that judges there."""

from __future__ import annotations

from collections.abc import Mapping

from fleetmesh.core.authz import Authorizer, Verdict
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import Table
from fleetmesh.model.explanation import Decision
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
            because = "not told" if consul is not None else "not known"
            basis = ASKED if consul is not None else NOWHERE
            return Decision(destination, consul, because, basis, consul=consul)
        by_request = authorizer.rules(self._source) is not None
        verdict = authorizer.explain(self._source, head)
        note = ""
        allowed = verdict.allowed
        # Of permissions Consul says only that they allow no connection.
        if basis == LISTED and consul is not None and not by_request and consul != allowed:
            allowed, note = consul, LACKING
        return _told(destination, verdict, allowed, basis, consul, note)

    def _authorizer(self, destination: str) -> tuple[Authorizer | None, str]:
        local = self._table.services.get(destination)
        if local is not None:
            return local.authorizer, HERE
        observed = self._observed
        if observed is None or observed.intentions is None or observed.default_allow is None:
            return None, ""
        intentions = for_destination(destination, readable(observed.intentions)[0])
        return Authorizer(intentions, observed.default_allow), LISTED


def _told(
    destination: str,
    verdict: Verdict,
    allowed: bool,
    basis: str,
    consul: bool | None,
    note: str,
) -> Decision:
    because, permission = str(verdict), verdict.rule
    if verdict.ambiguous:
        because += f" (the request's {verdict.ambiguous} can be read in more than one way)"
    precedence = verdict.intention.precedence if verdict.intention else 0
    return Decision(destination, allowed, because, basis, precedence, permission, consul, note)
