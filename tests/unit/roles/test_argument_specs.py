"""What a role says of its variables agrees: specs, defaults, README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.collection import ROOT

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PHASES = ("preflight", "install", "configure", "run")

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def read(role: Path, file: str) -> Any:
    return yaml.safe_load((role / file).read_text())


def defaults(role: Path) -> dict[str, Any]:
    file = role / "defaults/main.yml"
    return (yaml.safe_load(file.read_text()) or {}) if file.exists() else {}


def options(role: Path) -> dict[str, dict[str, Any]]:
    spec: dict[str, dict[str, Any]] = read(role, "meta/argument_specs.yml")["argument_specs"]
    return spec["main"].get("options", {})


def table(role: Path) -> dict[str, str]:
    """Variable → second column of the README's table; a row may speak of several."""
    rows = re.findall(r"^\| (`.*?`) \|([^|\n]*)\|", (role / "README.md").read_text(), re.MULTILINE)
    return {name: cell.strip() for names, cell in rows for name in re.findall(r"`(\w+)`", names)}


@each_role
def test_every_default_is_specified_and_every_optional_argument_has_one(role: Path) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(defaults(role)) == set(options(role)) - required


@each_role
def test_a_default_in_the_specs_is_the_one_in_force(role: Path) -> None:
    """Computed ones may be left out of the specs; a literal one must stand there."""
    in_force = defaults(role)
    for name, option in options(role).items():
        if "default" in option:
            assert option["default"] == in_force[name], name
        elif name in in_force:
            computed = isinstance(in_force[name], str) and "{{" in in_force[name]
            assert computed, f"{name}: {in_force[name]!r} does not stand in argument_specs.yml"


@each_role
def test_every_argument_is_described_and_prefixed(role: Path) -> None:
    for name, option in options(role).items():
        assert name.startswith(role.name), name
        assert option.get("type"), name
        assert option.get("description"), name


@each_role
def test_the_readme_names_every_variable_and_no_other(role: Path) -> None:
    assert set(table(role)) == set(options(role))


@each_role
def test_the_readme_gives_the_default_in_force(role: Path) -> None:
    """A cell that is one literal must be the default; prose may describe a computed one."""
    in_force = defaults(role)
    for name, cell in table(role).items():
        literal = re.fullmatch(r"`([^`]*)`", cell)
        if literal and name in in_force:
            assert yaml.safe_load(literal[1]) == in_force[name], name


@each_role
def test_meta_names_the_role_and_what_it_runs_on(role: Path) -> None:
    info = read(role, "meta/main.yml")["galaxy_info"]
    assert info["role_name"] == role.name
    assert info["description"]
    assert info["license"] == "Apache-2.0"
    assert info["min_ansible_version"]
    assert info["platforms"]


@each_role
def test_phases_are_in_order_and_tagged(role: Path) -> None:
    """Each task file has its phase's tag first; the checks may run with a later phase, too."""
    tasks = read(role, "tasks/main.yml")
    if role.name == "lab":
        return  # it makes and removes hosts: two entry points, no phases
    phases = [next(tag for tag in task["tags"] if tag in PHASES) for task in tasks]
    assert phases == sorted(phases, key=PHASES.index)
    assert phases[0] == "preflight"
    for task in tasks:
        assert task["tags"][0] == role.name, task["name"]
