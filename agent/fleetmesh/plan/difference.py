"""Where two answers to the same question differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fleetmesh.model.explanation import Difference

APART = frozenset({"question", "found", "generation", "seconds_left", "basis"})
"""Keys that say who was asked, and when."""
KEYS = ("id", "name")


def differences(in_force: msgspec.Struct, consul: msgspec.Struct) -> tuple[Difference, ...]:
    """Elements of a list with an id or a name are compared with those of the same, others by
    place."""
    return tuple(_differing("", msgspec.to_builtins(in_force), msgspec.to_builtins(consul)))


def _differing(path: str, one: Any, other: Any) -> Iterator[Difference]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in (*one, *(key for key in other if key not in one)):
            if key not in APART:
                yield from _differing(
                    f"{path}.{key}" if path else key, one.get(key), other.get(key)
                )
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        ours, theirs = _by_key(one), _by_key(other)
        for key in (*ours, *(key for key in theirs if key not in ours)):
            yield from _differing(f"{path}[{key}]", ours.get(key), theirs.get(key))
    elif one != other:
        yield Difference(path, one, other)


def _by_key(elements: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    for name in KEYS:
        if all(isinstance(one, dict) and name in one for one in elements):
            keyed = {str(one[name]): one for one in elements}
            if len(keyed) == len(elements):
                return keyed
    return {str(number): one for number, one in enumerate(elements)}
