"""docs/cli.md names every verb and option that there is, and none that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from fleetmesh.cli import app
from fleetmesh.entries import KINDS

MANUAL = (Path(__file__).parents[3] / "docs/cli.md").read_text()


def commands(group: Any = None, name: str = "fleetmesh") -> Iterator[tuple[str, Any]]:
    """Every visible verb, by its full name."""
    for verb, command in (group or typer.main.get_command(app)).commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {verb}")
        else:
            yield f"{name} {verb}", command


def section(name: str) -> str:
    """The part of the manual under `## fleetmesh <verb>`, with the common options."""
    verb = " ".join(name.split()[:2])
    assert f"\n## {verb}\n" in MANUAL
    common = MANUAL.split("\n## Common options\n")[1].split("\n## ")[0]
    return MANUAL.split(f"\n## {verb}\n")[1].split("\n## ")[0] + common


def test_every_option_is_in_the_manual() -> None:
    for name, command in commands():
        words = set(re.findall(r"[\w-]+", section(name)))
        assert set(name.split()[2:]) <= words
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-"):
                    assert option in words, f"{name} {option}"


def test_no_option_is_invented() -> None:
    real = {
        option
        for _, command in commands()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--version"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", MANUAL)) <= real


def test_every_kind_of_entry_is_named() -> None:
    assert {kind for kind in KINDS if kind not in section("fleetmesh validate")} == set()
