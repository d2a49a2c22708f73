"""Policy files: config entries and intentions, as they stand in an inventory.

    config_entries:
      - {Kind: service-defaults, Name: api, Protocol: http}
    intentions:
      - {source: web, destination: api, action: allow, description: the shop}

A file that holds one config entry alone (`Kind` at its top) is one, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
import yaml

from fleetmesh.entries import KINDS
from fleetmesh.model.identity import WILDCARD, Action
from fleetmesh.settings.decode import INVALID, Reader, suggestion
from fleetmesh.settings.kinds import Kind, Wrong, shown

_CONSUL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")


def _service(value: object) -> object:
    if value == WILDCARD or (isinstance(value, str) and _CONSUL_NAME.fullmatch(value)):
        return value
    remedy = 'Write "*" for every service' if "*" in str(value) else "Name one service"
    return Wrong(f"{shown(value)} is not a service name", remedy)


class IntentionRule(msgspec.Struct, frozen=True):
    """One intention; `source` and `destination` are service names or `*`."""

    source: Annotated[str, Kind("a service name or *", _service)]
    destination: Annotated[str, Kind("a service name or *", _service)]
    action: Action
    description: str = ""


class Subject(msgspec.Struct, frozen=True):
    """What an item of a policy file is about; two items about the same contradict each other."""

    text: str
    key: str


class Policy(msgspec.Struct, frozen=True):
    reader: Reader
    subjects: tuple[Subject, ...]


def read_policy(reader: Reader, node: yaml.MappingNode) -> Policy:
    """Tells `reader` every problem of the file."""
    top = reader.mapping(node, "") or {}
    subjects: list[Subject] = []
    if "Kind" in top:
        subjects += _entry(reader, node, "")
        return Policy(reader, tuple(subjects))
    for name, value in top.items():
        if name == "config_entries":
            for key, item in reader.items(value, name) or []:
                subjects += _entry(reader, item, key)
        elif name == "intentions":
            for key, item in reader.items(value, name) or []:
                rule = reader.struct(item, IntentionRule, key)
                if rule is not None:
                    text = f"intention {rule.source} => {rule.destination}"
                    subjects.append(Subject(text, key))
        else:
            known = ("config_entries", "intentions")
            reader.problem(name, "is not known here", suggestion(name, known))
    return Policy(reader, tuple(subjects))


def check_together(policies: Sequence[Policy]) -> None:
    """Nothing is said twice, within a file or across files."""
    seen: dict[str, str] = {}
    for policy in policies:
        for subject in policy.subjects:
            if subject.text in seen:
                policy.reader.problem(
                    subject.key,
                    f"{subject.text} stands in {seen[subject.text]} already",
                    "Keep one of the two",
                )
            else:
                line = policy.reader.lines.get(subject.key, 1)
                seen[subject.text] = f"{policy.reader.file}:{line}"


def _entry(reader: Reader, node: yaml.Node, key: str) -> list[Subject]:
    scratch = Reader(reader.file)
    entries = scratch.mapping(node, key)
    if entries is None:
        reader.problem(key, "must hold key: value lines", "Write Kind, Name and the entry's keys")
        return []
    kind_key = f"{key}.Kind" if key else "Kind"
    if "Kind" not in entries:
        close = [name for name in entries if name.lower() == "kind"]
        remedy = f'Write Kind in place of "{close[0]}"' if close else "Add Kind"
        reader.problem(kind_key, "is missing", remedy)
        return []
    reader.lines[kind_key] = scratch.lines[kind_key]
    name = reader.text(entries["Kind"], kind_key)
    if name is INVALID:
        return []
    kind = KINDS.get(str(name))
    if kind is None:
        reader.problem(kind_key, f'"{name}" is no kind', suggestion(str(name), KINDS, "kinds"))
        return []
    entry = reader.struct(node, kind.shape, key)
    if entry is None:
        return []
    kind.check(entry, reader, key)
    return [Subject(f"{entry.kind}/{entry.name}", key)]
