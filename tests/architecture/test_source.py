"""House rules that can be read off the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from fleetmesh.balance import PICKERS
from fleetmesh.capture import METHODS
from fleetmesh.entries import KINDS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "agent" / "fleetmesh"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

ASYNC_PACKAGES = {"edge", "process"}
PROXY_COROUTINE = re.compile(r"_?(dial|connect|open|drain)(_\w+)?")

EXCEPTIONS_ELSEWHERE = {
    "proxy/dial": "raised and caught while dialling, where it becomes Refusal.WRONG_PEER",
    "proxy/stream": "what asyncio passes to connection_lost has to be an exception",
}

PROVEN_WHOLE = {
    "balance": "tests/unit/proxy",
    "cli": "tests/unit/cli",
    "core": "tests/unit/proxy",
    "entries": "tests/unit/entries",
    "process": "tests/integration/test_controller.py",
    "proxy": "tests/unit/proxy",
}
"""Packages whose modules are also proven together: the path of tests that run the whole."""


def name_of(source: Path) -> str:
    """`proxy/relay`, as in the table above and in messages."""
    return str(source.relative_to(PACKAGE).with_suffix(""))


every_source = pytest.mark.parametrize("source", SOURCES, ids=name_of)


@cache
def tree(source: Path) -> ast.Module:
    return ast.parse(source.read_text(), str(source))


def holds_code(source: Path) -> bool:
    """Whether there is more than a docstring, imports, names and values."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree(source))
    )


@every_source
def test_async_def_stands_where_io_is(source: Path) -> None:
    """In edge and process, and in the proxy's dialling and draining."""
    package = name_of(source).split("/")[0]
    if package in ASYNC_PACKAGES:
        return
    found = [n.name for n in ast.walk(tree(source)) if isinstance(n, ast.AsyncFunctionDef)]
    if package == "proxy":
        found = [name for name in found if not PROXY_COROUTINE.fullmatch(name)]
    assert not found


@every_source
def test_a_module_is_one_idea(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= MAX_LINES


@every_source
def test_a_module_says_what_it_is(source: Path) -> None:
    assert ast.get_docstring(tree(source)) or not source.read_text(), "no module docstring"


@every_source
def test_exceptions_are_defined_in_edge_only(source: Path) -> None:
    """Decisions return a Refusal or a Problem."""
    found = [node.name for node in exceptions(source)]
    if name_of(source).split("/")[0] != "edge":
        assert bool(found) == (name_of(source) in EXCEPTIONS_ELSEWHERE), found


def exceptions(source: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            if any(base.endswith(("Exception", "Error")) for base in bases):
                yield node


def test_exceptions_are_flat() -> None:
    """No exception of ours inherits from another of ours."""
    ours = {node.name: node for source in SOURCES for node in exceptions(source)}
    assert "NetfilterError" in ours
    for name, node in ours.items():
        assert not ours.keys() & {ast.unparse(base) for base in node.bases}, name


@cache
def imported_by_tests() -> set[str]:
    """Modules of ours that a test names, as `proxy/relay`."""
    found: set[str] = set()
    for test in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(tree(test)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value]
            found.update(
                name.removeprefix("fleetmesh.").replace(".", "/")
                for name in names
                if name.startswith("fleetmesh.")
            )
    return found


@pytest.mark.parametrize("source", [s for s in SOURCES if holds_code(s)], ids=name_of)
def test_code_has_a_test(source: Path) -> None:
    """A test names the module, or its package is proven as a whole."""
    name = name_of(source).removesuffix("/__init__")
    assert name in imported_by_tests() or name.split("/")[0] in PROVEN_WHOLE


def test_proofs_of_whole_packages_exist() -> None:
    for package, path in PROVEN_WHOLE.items():
        assert (PACKAGE / package).is_dir()
        tests = [ROOT / path] if path.endswith(".py") else list((ROOT / path).glob("test_*.py"))
        assert tests
        assert all("def test_" in test.read_text() for test in tests), path


@pytest.mark.parametrize(
    ("package", "registry", "helpers"),
    [
        ("balance", PICKERS, {"choices", "hashing", "latency", "picker", "tilts", "zonal"}),
        ("capture", METHODS, {"attributes", "bypass", "bytecode", "ruleset", "switch", "view"}),
        ("entries", KINDS, {"policy", "shape"}),
    ],
)
def test_registries_name_all_their_modules(
    package: str, registry: Mapping[str, object], helpers: set[str]
) -> None:
    """A module of such a package is either in the registry or one of the named helpers."""
    modules = {path.stem for path in (PACKAGE / package).glob("*.py")} - {"__init__"}
    assert helpers <= modules
    assert {_file_name(name) for name in registry} == modules - helpers


def _file_name(registered: str) -> str:
    return registered.replace("-", "_")
