"""service-intentions: who may call a service, by request where permissions say so."""

from __future__ import annotations

from typing import Any, Literal

from fleetmesh.entries.service_router import HttpMatch, check_match
from fleetmesh.entries.shape import Entry, EntryKind, Shape, Text
from fleetmesh.settings.decode import Reader, joined


class Permission(Shape, frozen=True):
    action: Literal["allow", "deny"]
    http: HttpMatch = HttpMatch()
    jwt: dict[str, Any] = {}


class Source(Shape, frozen=True):
    name: Text
    action: Literal["", "allow", "deny"] = ""
    permissions: tuple[Permission, ...] = ()
    type: Literal["consul"] = "consul"
    description: str = ""
    precedence: int = 0
    namespace: str = ""
    partition: str = ""
    peer: str = ""
    sameness_group: str = ""


class ServiceIntentions(Entry, frozen=True):
    sources: tuple[Source, ...] = ()
    jwt: dict[str, Any] = {}


def check(entry: ServiceIntentions, reader: Reader, key: str) -> None:
    seen: set[tuple[str, str, str, str]] = set()
    for index, source in enumerate(entry.sources):
        place = f"{joined(key, 'Sources')}[{index}]"
        if bool(source.action) == bool(source.permissions):
            rule = "has neither Action nor Permissions"
            if source.action:
                rule = "has both Action and Permissions"
            reader.problem(place, rule, "Keep exactly one of the two")
        whom = (source.name, source.namespace, source.partition, source.peer)
        if whom in seen:
            reader.problem(place, f'repeats the source "{source.name}"', "Join the two")
        seen.add(whom)
        for at, permission in enumerate(source.permissions):
            check_match(permission.http, reader, f"{place}.Permissions[{at}].HTTP")


KIND = EntryKind("service-intentions", ServiceIntentions, check)
