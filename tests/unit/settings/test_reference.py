"""docs/settings.md is the structs': every key, how it is written, and its default."""

from __future__ import annotations

import enum
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from fleetmesh import settings
from fleetmesh.settings import checks
from fleetmesh.settings.kinds import (
    CONFIRM,
    DEADLINE,
    DETECT,
    DRAIN,
    KEEPALIVE,
    SLOW_START,
    TIMEOUT,
    UNREACHABLE,
    Hidden,
    Kind,
    go_duration,
)

REFERENCE = (Path(__file__).parents[3] / "docs/settings.md").read_text()
STRUCTS = (
    settings.Settings,
    settings.ConsulSettings,
    settings.CaptureSettings,
    settings.DnsSettings,
    settings.Ports,
    settings.HttpSettings,
    settings.TcpSettings,
    settings.UpstreamSettings,
    settings.OutlierSettings,
    settings.TracingSettings,
    settings.AccessLogSettings,
    settings.OnDemandSettings,
    settings.ServiceSettings,
)
DURATIONS = (TIMEOUT, DRAIN, CONFIRM, DEADLINE, DETECT, KEEPALIVE, SLOW_START, UNREACHABLE)


def written(hint: Any) -> str:
    """How the reference says what may stand there."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        kind = next(extra for extra in args if isinstance(extra, Kind))
        return kind.text
    if origin in (types.UnionType, typing.Union):
        return written(args[0])
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f" {len(args)}"
        return f"list of{count}: {written(args[0])}"
    if origin is dict:
        return "[check](#checks)" if args[1] is Any else f"map to: {written(args[1])}"
    if issubclass(hint, msgspec.Struct):
        name = re.sub(r"\B([A-Z])", r"_\1", hint.__name__.removesuffix("Settings")).lower()
        return f"[{name}](#{name})"
    if issubclass(hint, enum.Enum):
        return "one of " + ", ".join(member.value for member in hint)
    return {bool: "true or false", str: "text"}[hint]


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Struct):
        return ""
    if value is None:
        return "unset"
    if field.name == "id":
        return "the name"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | dict):
        return ", ".join(map(str, value)) or "none"
    kinds = getattr(field.type, "__metadata__", ())
    return go_duration(value) if any(kind in DURATIONS for kind in kinds) else str(value)


def is_hidden(field: msgspec.structs.FieldInfo) -> bool:
    return any(isinstance(extra, Hidden) for extra in getattr(field.type, "__metadata__", ()))


def rows(marker: str) -> list[list[str]]:
    """Cells of the table below a marker, without its head."""
    lines = REFERENCE.split(f"<!-- {marker} -->\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("struct", STRUCTS, ids=[struct.__name__ for struct in STRUCTS])
def test_the_reference_says_what_the_struct_says(struct: type[msgspec.Struct]) -> None:
    """Same keys, same order, same values, same defaults; and each has a meaning."""
    fields = [field for field in msgspec.structs.fields(struct) if not is_hidden(field)]
    found = rows(struct.__name__)
    assert [row[:3] for row in found] == [
        [f"`{field.name}`", written(field.type), default(field)] for field in fields
    ]
    assert all(len(row) == 4 and row[3].endswith(".") for row in found)


def test_every_key_of_a_check_is_described() -> None:
    section = REFERENCE.split("### Checks")[1]
    described = set(re.findall(r"`([a-z_0-9]+)`", section))
    assert {checks.snake(name) for name in checks.KNOWN} <= described
