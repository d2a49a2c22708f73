"""What is no longer in Consul's catalog, and how soon to believe it.

After a restore from an old or empty snapshot the servers know no service until every Consul agent
has registered its own again, which its anti-entropy does within two minutes. Endpoints that are
gone together with everything else are kept until a second look finds them gone as well; those that
are really dead fail their calls meanwhile, as they would be missed. One instance of several is
believed to be gone at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.names import named
from fleetmesh.plan.observed import Observed, callable_services

ONE = 5.0
"""Seconds until the last instances of one service are believed to be gone."""
MANY = 150.0
"""The same when half of all services are gone: the two minutes of anti-entropy, and some."""


def patience(gone: Iterable[InstanceQuery], observed: Observed) -> float:
    """Seconds from its vanishing until a list of instances in `gone` is believed to be empty."""
    vanished = _services(gone)
    known = _services(query for query, found in observed.instances.items() if found)
    many = len(vanished) > 1 and len(vanished & known) * 2 >= len(known)
    return MANY if many else ONE


def _services(queries: Iterable[InstanceQuery]) -> set[str]:
    """Those asked for as a whole, in this datacenter."""
    return {query.service for query in queries if query == InstanceQuery(query.service)}


def is_believed(
    query: InstanceQuery, vanished: Mapping[InstanceQuery, float], observed: Observed, now: float
) -> bool:
    """`vanished` has the moment at which each list was first found empty, `now` is of the same
    clock."""
    since = vanished.get(query, now)
    return now - since >= patience(vanished, observed)


def catalog_with_doubted(listed: Iterable[str], observed: Observed) -> frozenset[str]:
    """The names that are `listed`, and those that were whose endpoints are still believed in."""
    names = frozenset(listed)
    used = {named(key).service for key in observed.wanted}
    before = {query.service for query in observed.remembered if not query.datacenter} & used
    gone = before.union(observed.catalog or ()) - names
    return names | {
        name
        for name in callable_services(gone)
        if name in before or observed.instances.get(InstanceQuery(name))
    }
