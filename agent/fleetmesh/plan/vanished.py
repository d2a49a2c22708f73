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
from fleetmesh.plan.observed import Observed, callable_services

ONE = 5.0
"""Seconds until the last instances of one service are believed to be gone."""
MANY = 150.0
"""The same when half of all services are gone: the two minutes of anti-entropy, and some."""


def patience(gone: Iterable[str], observed: Observed) -> float:
    """Seconds from its vanishing until a service of `gone` is believed to be gone."""
    vanished = set(gone)
    known = {query.service for query, found in observed.instances.items() if found}
    many = len(vanished) > 1 and len(vanished & known) * 2 >= len(known)
    return MANY if many else ONE


def is_believed(
    service: str, vanished: Mapping[str, float], observed: Observed, now: float
) -> bool:
    """`vanished` has the moment at which each service was first found without instances, `now` is
    of the same clock."""
    since = vanished.get(service, now)
    return now - since >= patience(vanished, observed)


def catalog_with_doubted(listed: Iterable[str], observed: Observed) -> frozenset[str]:
    """The names that are `listed`, and those that were whose endpoints are still believed in."""
    names = frozenset(listed)
    gone = (observed.catalog or frozenset()) - names
    return names | {
        name for name in callable_services(gone) if observed.instances.get(InstanceQuery(name))
    }
