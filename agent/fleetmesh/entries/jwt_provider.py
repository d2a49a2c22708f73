"""jwt-provider: an issuer of tokens that intentions may demand."""

from __future__ import annotations

from typing import Any

from fleetmesh.entries.shape import Entry, EntryKind
from fleetmesh.settings.decode import Reader, joined


class JwtProvider(Entry, frozen=True):
    issuer: str = ""
    audiences: tuple[str, ...] = ()
    json_web_key_set: dict[str, Any] = {}
    locations: tuple[dict[str, Any], ...] = ()
    forwarding: dict[str, Any] = {}
    cache_config: dict[str, Any] = {}
    clock_skew_seconds: int = 30


def check(entry: JwtProvider, reader: Reader, key: str) -> None:
    if len(entry.json_web_key_set.keys() & {"Local", "Remote"}) != 1:
        reader.problem(
            joined(key, "JSONWebKeySet"), "must have one of Local and Remote", "Add one of them"
        )


KIND = EntryKind("jwt-provider", JwtProvider, check)
