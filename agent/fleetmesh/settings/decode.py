"""From a YAML tree to a struct, driven by the struct's own annotations: all problems, by line."""

from __future__ import annotations

import difflib
import enum
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import yaml

from fleetmesh.model.problem import Problem
from fleetmesh.settings import document
from fleetmesh.settings.kinds import Hidden, Kind, Wrong, shown

T = TypeVar("T", bound=msgspec.Struct)
MAX_DEPTH = 32


class Invalid(enum.Enum):
    """Stands for a value that has a problem already."""

    INVALID = enum.auto()


INVALID: Final = Invalid.INVALID


def suggestion(wrong: str, known: Iterable[str], what: str = "keys") -> str:
    """The known word nearest to a wrong one, else all of them."""
    by_folded = {_folded(name): name for name in known}
    close = difflib.get_close_matches(_folded(wrong), by_folded, n=1, cutoff=0.6)
    if close:
        return f'Did you mean "{by_folded[close[0]]}"?'
    return f"Known {what}: {', '.join(by_folded.values())}"


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


class Reader:
    """Reads one file. `lines` holds the line of every key that was seen."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[tuple[int, Problem]] = []
        self.lines: dict[str, int] = {}

    @property
    def problems(self) -> list[Problem]:
        """In the order of the file's lines."""
        return [problem for _, problem in sorted(self._found, key=lambda item: item[0])]

    def problem(self, key: str, rule: str, remedy: str = "", line: int | None = None) -> None:
        """Records a problem on `line`, else on that of `key` or of the nearest key above it."""
        stands = key
        while stands and stands not in self.lines:
            stands = stands[: max(stands.rfind("."), stands.rfind("["), 0)]
        line = line or self.lines.get(stands, 1)
        path = f"{self.file}:{line}" + (f": {key}" if key else "")
        self._found.append((line, Problem(path, rule, remedy)))

    def struct(self, node: yaml.Node, kind: type[T], key: str = "") -> T | None:
        """None when a value without a default is missing or wrong; other wrong values give way
        to their defaults, so that later rules see the rest."""
        entries = self.mapping(node, key)
        if entries is None:
            return None
        fields = {
            field.encode_name: field
            for field in msgspec.structs.fields(kind)
            if not _is_hidden(field.type)
        }
        values: dict[str, Any] = {}
        complete = True
        for name, value_node in entries.items():
            field = fields.get(name)
            if field is None:
                self.problem(joined(key, name), "is not known here", suggestion(name, fields))
                continue
            value = self.value(value_node, field.type, joined(key, name))
            if value is not INVALID:
                values[field.name] = value
            elif field.required:
                complete = False
        for name, field in fields.items():
            if field.required and name not in entries:
                self.problem(joined(key, name), "is missing", f"Add {name}")
                complete = False
        return kind(**values) if complete else None

    def mapping(self, node: yaml.Node, key: str) -> dict[str, yaml.Node] | None:
        """The values by key; None (with a problem) when `node` is not a mapping."""
        if not self._plain(node, key):
            return None
        if not isinstance(node, yaml.MappingNode):
            self.problem(key, "must hold key: value lines")
            return None
        entries: dict[str, yaml.Node] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode) or not document.is_text(name_node.value):
                self.problem(key, "has a key that is not text")
                continue
            name = str(name_node.value)
            path = joined(key, name)
            line = document.line_of(name_node)
            if name in entries:
                rule = f"was set on line {self.lines[path]} already"
                self.problem(path, rule, "Keep one of the two", line)
                continue
            self.lines[path] = line
            entries[name] = value_node
        return entries

    def items(self, node: yaml.Node, key: str) -> list[tuple[str, yaml.Node]] | None:
        """The elements of a list with their keys; None (with a problem) when it is not one."""
        if not self._plain(node, key):
            return None
        if not isinstance(node, yaml.SequenceNode):
            self.problem(key, "must be a list", "Write it as [a, b] or as lines beginning with -")
            return None
        found = []
        for index, item in enumerate(node.value):
            path = f"{key}[{index}]"
            self.lines[path] = document.line_of(item)
            found.append((path, item))
        return found

    def value(self, node: yaml.Node, hint: Any, key: str) -> Any:
        """What `node` says as `hint` demands, or INVALID with a problem."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            kinds = [extra for extra in args[1:] if isinstance(extra, Kind)]
            return self._kind(node, kinds[0], key) if kinds else self.value(node, args[0], key)
        if origin in (types.UnionType, typing.Union):
            if self._is_null(node):
                return None
            return self.value(node, next(arg for arg in args if arg is not types.NoneType), key)
        if self._is_null(node) and hint is not Any:
            self.problem(key, "has no value", "Give it one or remove the line")
            return INVALID
        if origin is tuple:
            return self._tuple(node, args, key)
        if origin is dict:
            return self._dict(node, args[1], key)
        if hint is Any:
            return self.plain(node, key)
        if origin is Literal:
            return self._choice(node, args, key)
        if issubclass(hint, msgspec.Struct):
            found = self.struct(node, hint, key)
            return INVALID if found is None else found
        if issubclass(hint, enum.Enum):
            name = self._choice(node, tuple(member.value for member in hint), key)
            return name if name is INVALID else hint(name)
        return self._scalar(node, hint, key)

    def plain(self, node: yaml.Node, key: str, depth: int = 0) -> Any:
        """Any YAML as Python's own values, for keys whose shape is not ours to know."""
        if depth > MAX_DEPTH:
            self.problem(key, "is nested too deeply")
            return INVALID
        if isinstance(node, yaml.MappingNode):
            entries = self.mapping(node, key)
            if entries is None:
                return INVALID
            found = {
                name: self.plain(value, joined(key, name), depth + 1)
                for name, value in entries.items()
            }
            return INVALID if INVALID in list(found.values()) else found
        if isinstance(node, yaml.SequenceNode):
            items = self.items(node, key)
            if items is None:
                return INVALID
            values = [self.plain(value, path, depth + 1) for path, value in items]
            return INVALID if INVALID in values else values
        if not isinstance(node, yaml.ScalarNode) or not self._plain(node, key):
            return INVALID
        return document.scalar(node)

    def text(self, node: yaml.Node, key: str) -> str | Invalid:
        found = self._scalar(node, str, key)
        return found if isinstance(found, str | Invalid) else INVALID

    def _plain(self, node: yaml.Node, key: str) -> bool:
        tag = document.strange_tag(node)
        if tag is not None:
            self.problem(key, f"has the tag {tag}", "Write a plain value without a tag")
            return False
        if isinstance(node, yaml.ScalarNode) and not document.is_text(node.value):
            self.problem(key, "holds a control character", "Remove it")
            return False
        return True

    @staticmethod
    def _is_null(node: yaml.Node) -> bool:
        return isinstance(node, yaml.ScalarNode) and document.scalar(node) is None

    def _single(self, node: yaml.Node, key: str, what: str) -> str | int | float | bool | Invalid:
        if not self._plain(node, key):
            return INVALID
        if not isinstance(node, yaml.ScalarNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
            self.problem(key, f"must be {what}, not {kind}")
            return INVALID
        found = document.scalar(node)
        if found is None:
            self.problem(key, "has no value", "Give it one or remove the line")
            return INVALID
        return found

    def _kind(self, node: yaml.Node, kind: Kind, key: str) -> Any:
        found = self._single(node, key, kind.text)
        if found is INVALID:
            return INVALID
        value = kind.read(found)
        if isinstance(value, Wrong):
            self.problem(key, value.rule, value.remedy)
            return INVALID
        return value

    def _scalar(self, node: yaml.Node, hint: type, key: str) -> Any:
        what = {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "text")
        found = self._single(node, key, what)
        if isinstance(found, Invalid) or type(found) is hint:
            return found
        if hint is float and type(found) is int:
            return float(found)
        if hint is str:
            self.problem(key, f"must be text, not {node.value}", f'Quote it: "{node.value}"')
        else:
            self.problem(key, f"must be {what}, not {shown(found)}")
        return INVALID

    def _choice(self, node: yaml.Node, choices: tuple[Any, ...], key: str) -> Any:
        found = self._single(node, key, "one of " + ", ".join(map(str, choices)))
        if found is INVALID or found in choices:
            return found
        self.problem(key, f"must be one of {', '.join(map(str, choices))}, not {shown(found)}")
        return INVALID

    def _tuple(self, node: yaml.Node, args: tuple[Any, ...], key: str) -> Any:
        items = self.items(node, key)
        if items is None:
            return INVALID
        hints = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
        if len(hints) != len(items):
            self.problem(key, f"must list {len(hints)} values, not {len(items)}")
            return INVALID
        values = tuple(
            self.value(item, hint, path) for (path, item), hint in zip(items, hints, strict=True)
        )
        return INVALID if INVALID in values else values

    def _dict(self, node: yaml.Node, hint: Any, key: str) -> Any:
        entries = self.mapping(node, key)
        if entries is None:
            return INVALID
        found = {
            name: self.value(value, hint, joined(key, name)) for name, value in entries.items()
        }
        return INVALID if INVALID in list(found.values()) else found


def _is_hidden(hint: Any) -> bool:
    return any(isinstance(extra, Hidden) for extra in getattr(hint, "__metadata__", ()))
