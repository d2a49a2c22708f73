"""Which names are the mesh's, and what they name.

`<service>.mesh` and `<service>.virtual.consul`, each with a subset before it; in another
datacenter `<service>.<datacenter>.mesh` and `<service>.virtual.<datacenter>.consul`.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from fleetmesh.settings.kinds import SERVICE_NAME

MESH = "mesh"
CONSUL = "consul"
VIRTUAL = "virtual"


class MeshName(msgspec.Struct, frozen=True):
    """`subset` and `datacenter` are empty when the name has none."""

    service: str
    subset: str = ""
    datacenter: str = ""


def zone_of(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The zone of the mesh that a name lies in, as labels; () when it is not the mesh's to answer.
    `labels` are the name's, in lower case and without the root's.

    >>> zone_of(("api", "mesh")), zone_of(("api", "virtual", "dc2", "consul"))
    (('mesh',), ('virtual', 'dc2', 'consul'))
    >>> zone_of(("api", "service", "consul"))
    ()
    """
    if labels[-1:] == (MESH,):
        return labels[-1:]
    if labels[-1:] == (CONSUL,):
        for zone in (labels[-2:], labels[-3:]):
            if zone[0] == VIRTUAL and len(zone) > 1:
                return zone
    return ()


def parse(labels: tuple[str, ...], datacenters: Collection[str]) -> MeshName | None:
    """What a name names; None for one that is not the mesh's, or names no service.

    `datacenters` are those that are known: a name's last label before `mesh` that is among them is
    the datacenter, any other the service.
    """
    labels = tuple(label.lower() for label in labels)
    zone = zone_of(labels)
    rest = labels[: len(labels) - len(zone)]
    datacenter = zone[1] if len(zone) == 3 else ""
    if zone == (MESH,) and len(rest) > 1 and rest[-1] in datacenters:
        rest, datacenter = rest[:-1], rest[-1]
    if not zone or not 1 <= len(rest) <= 2:
        return None
    if not all(SERVICE_NAME.fullmatch(label) for label in rest):
        return None
    return MeshName(rest[-1], rest[0] if len(rest) == 2 else "", datacenter)
