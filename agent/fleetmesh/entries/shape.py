"""What entries of every kind share: Consul's spelling of keys, common values, the base struct."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from fleetmesh.settings.decode import Reader
from fleetmesh.settings.kinds import Kind, Wrong, seconds_of, shown

_ACRONYMS = {word.lower(): word for word in ("HTTP", "TLS", "SNI", "CA", "JWT", "JSON")}


def consul_case(name: str) -> str:
    """`external_sni` as Consul spells it: `ExternalSNI`."""
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in name.split("_"))


def _go_duration(value: object) -> object:
    if not isinstance(value, str):
        return Wrong(f"must be a duration with a unit, not {shown(value)}", 'Write "5s" or "250ms"')
    seconds = seconds_of(value)
    return seconds if isinstance(seconds, Wrong) else value


def _text(value: object) -> object:
    if isinstance(value, str) and value.strip():
        return value
    return Wrong(f"must be text, not {shown(value)}", f'Quote it: "{value}"')


Duration = Annotated[str, Kind("a duration with a unit", _go_duration)]
Text = Annotated[str, Kind("text", _text)]
Protocol = Literal["tcp", "http", "http2", "grpc"]


class Shape(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=consul_case
):
    """A part of an entry."""


class Entry(Shape, frozen=True):
    """The keys that every kind has."""

    kind: Text
    name: Text
    namespace: str = ""
    partition: str = ""
    meta: dict[str, str] = {}


class MeshGateway(Shape, frozen=True):
    mode: Literal["", "none", "local", "remote"] = ""


class ExposePath(Shape, frozen=True):
    listener_port: int
    path: Text
    local_path_port: int
    protocol: Literal["http", "http2"] = "http"


class Expose(Shape, frozen=True):
    checks: bool = False
    paths: tuple[ExposePath, ...] = ()


class TransparentProxy(Shape, frozen=True):
    outbound_listener_port: int = 15001
    dialed_directly: bool = False


class Headers(Shape, frozen=True):
    """Header changes of a route or split."""

    add: dict[str, str] = {}
    set: dict[str, str] = {}
    remove: tuple[str, ...] = ()


ProxyMode = Literal["", "direct", "transparent"]
MutualTls = Literal["", "default", "strict", "permissive"]


class EntryKind(msgspec.Struct, frozen=True):
    """A kind of config entry: the struct of its keys, and `check(entry, reader, key)` for rules
    between them, which tells `reader` what is wrong."""

    name: str
    shape: type[Entry]
    check: Callable[[Any, Reader, str], None]


def no_rules(_entry: Entry, _reader: Reader, _key: str) -> None:
    """Nothing beyond the shape."""


def at_most_one(shape: Shape, names: tuple[str, ...], reader: Reader, key: str) -> bool:
    """Whether one of `names` is set; more than one is a problem at `key`."""
    given = [consul_case(name) for name in names if getattr(shape, name)]
    if len(given) > 1:
        reader.problem(key, f"sets {' and '.join(given)}", "Keep one")
    return bool(given)
