"""Which names are the mesh's, and what they name.

`<service>.mesh` and `<service>.virtual.consul`, each with a subset before it; in another
datacenter `<service>.<datacenter>.mesh` and `<service>.virtual.<datacenter>.consul`, or with the
label `dc` after the datacenter, as newer servers of Consul spell it.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from fleetmesh.settings.kinds import SERVICE_NAME

MESH = "mesh"
CONSUL = "consul"
VIRTUAL = "virtual"
DC = "dc"


class MeshName(msgspec.Struct, frozen=True):
    """`subset` and `datacenter` are empty when the name has none."""

    service: str
    subset: str = ""
    datacenter: str = ""

    def key(self, local: str) -> str:
        """What its upstream is called, seen from datacenter `local`: a service by its name, else
        as Consul calls a target.

        >>> MeshName("api").key("dc1"), MeshName("api", "v1").key("dc1")
        ('api', 'v1.api.default.dc1')
        >>> MeshName("api", "", "dc2").key("dc1"), MeshName("api", "", "dc1").key("dc1")
        ('api.default.dc2', 'api')
        """
        datacenter = self.datacenter or local
        if not self.subset and datacenter == local:
            return self.service
        name = f"{self.service}.default.{datacenter}"
        return f"{self.subset}.{name}" if self.subset else name


def named(key: str) -> MeshName:
    """What `MeshName.key` made; with a datacenter unless it is a service's name.

    >>> named("v1.api.default.dc2")
    MeshName(service='api', subset='v1', datacenter='dc2')
    >>> named("api")
    MeshName(service='api', subset='', datacenter='')
    """
    parts = key.split(".")
    if len(parts) not in (3, 4) or parts[-2] != "default":
        return MeshName(key)
    return MeshName(parts[-3], parts[0] if len(parts) == 4 else "", parts[-1])


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
        for zone in (labels[-2:], labels[-3:], labels[-4:]):
            if zone[0] == VIRTUAL and len(zone) > 1 and zone[2:3] in ((), (CONSUL,), (DC,)):
                return zone
    return ()


def parse(labels: tuple[str, ...], datacenters: Collection[str]) -> MeshName | None:
    """What a name names; None for one that is not the mesh's, or names no service.

    `datacenters` are those that are known: a name's last label before `mesh` that is among them is
    the datacenter, and so is one before `dc`; any other is the service.
    """
    labels = tuple(label.lower() for label in labels)
    zone = zone_of(labels)
    rest = labels[: len(labels) - len(zone)]
    datacenter = zone[1] if len(zone) > 2 else ""
    if zone == (MESH,) and len(rest) > 2 and rest[-1] == DC:
        rest, datacenter = rest[:-2], rest[-2]
    elif zone == (MESH,) and len(rest) > 1 and rest[-1] in datacenters:
        rest, datacenter = rest[:-1], rest[-1]
    if not zone or not 1 <= len(rest) <= 2:
        return None
    if not all(SERVICE_NAME.fullmatch(label) for label in rest):
        return None
    return MeshName(rest[-1], rest[0] if len(rest) == 2 else "", datacenter)
