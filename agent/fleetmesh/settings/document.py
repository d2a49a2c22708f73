"""YAML files as trees whose nodes know their lines.

Read is YAML's plain core: mappings, lists, text, whole numbers, decimals, true/false, null. What
YAML 1.1 does behind a writer's back (`on` as true, 22:22 as 1342, 010 as 8) stays text here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fleetmesh.model.problem import Problem

MAX_BYTES = 1 << 20
_TAG = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_DIGITS = 20
_PLAIN_TAGS = {_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null")}


class _Loader(yaml.SafeLoader):
    """Composes nodes only; nothing is constructed from a tag."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not read",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)


def _resolve(name: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + name, re.compile(pattern), list(first))


_resolve("bool", r"^(?:true|false|True|False|TRUE|FALSE)$", "tTfF")
_resolve("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789")
_resolve("float", r"^[-+]?(?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?$", "-+.0123456789")
_resolve("null", r"^(?:~|null|Null|NULL|)$", "~nN\0")
_Loader.yaml_implicit_resolvers.setdefault("", []).append((_TAG + "null", re.compile(r"^$")))


def line_of(node: yaml.Node) -> int:
    """Lines count from 1."""
    return int(node.start_mark.line) + 1


def read_text(path: Path) -> str | Problem:
    try:
        if path.is_dir():
            return Problem(str(path), "is a directory", "Name a file")
        data = path.read_bytes()
    except FileNotFoundError:
        return Problem(str(path), "does not exist")
    except OSError as error:
        return Problem(str(path), f"cannot be read: {error.strerror}")
    if len(data) > MAX_BYTES:
        return Problem(str(path), f"is larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(f"{path}:{line}", "is not UTF-8", "Save the file as UTF-8")


def compose(text: str, file: str) -> yaml.MappingNode | Problem:
    """The one mapping that `text` holds."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return Problem(f"{file}:{line}", "holds a control character", "Remove it")
    except yaml.MarkedYAMLError as error:
        return _syntax(error, file)
    except RecursionError:
        return Problem(file, "is nested too deeply")
    finally:
        if loader is not None:
            loader.dispose()
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"):
        return Problem(f"{file}:1", "is empty", "Write key: value lines")
    if not isinstance(node, yaml.MappingNode):
        return Problem(f"{file}:{line_of(node)}", "must hold key: value lines")
    return node


def scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """The value of a scalar; text for everything that is not plainly something else."""
    match node.tag.removeprefix(_TAG):
        case "int":
            # More digits than any setting has, and Python would refuse thousands of them.
            return int(node.value) if len(node.value) <= MAX_DIGITS else str(node.value)
        case "float":
            return float(node.value)
        case "bool":
            return bool(node.value.lower() == "true")
        case "null":
            return None
        case _:
            return str(node.value)


def is_text(value: str) -> bool:
    """Whether it can be printed, logged and sent as it is: no control characters, which escapes
    in double quotes can bring in, and no halves of surrogate pairs."""
    return _UNPRINTABLE.search(value) is None


def strange_tag(node: yaml.Node) -> str | None:
    """A tag that only some loader's extension understands (`!vault`, `!!python/object`)."""
    if node.tag in _PLAIN_TAGS:
        return None
    return str(node.tag).replace(_TAG, "!!")


def _syntax(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    path = f"{file}:{mark.line + 1}" if mark else file
    what = error.problem or error.context or "cannot be parsed"
    if what == "aliases are not read":
        return Problem(path, what, "Write the value out")
    if "expected a single document" in str(error.context):
        return Problem(path, "begins a second document", "Keep one document per file")
    if "cannot start any token" in what and "\\t" in what:
        return Problem(path, "is indented with a tab", "Indent with spaces")
    return Problem(path, f"is not YAML: {what}", "Check indentation, colons and quotes")
