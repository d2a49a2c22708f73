"""The collection's own Python, importable and callable from a checkout."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ansible_collections.fleetmesh.mesh"


def load(path: str) -> types.ModuleType:
    """The module of `path` below plugins/, such as `module_utils.consul`."""
    for name, places in (
        ("ansible_collections", []),
        ("ansible_collections.fleetmesh", []),
        (PACKAGE, [str(ROOT)]),
    ):
        package = types.ModuleType(name)
        package.__path__ = places
        sys.modules.setdefault(name, package)
    return importlib.import_module(f"{PACKAGE}.plugins.{path}")


def run_module(name: str, /, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """What the module `name` answers to Ansible: `changed`, `diff`, or `failed` and `msg`."""
    module = load(f"modules.{name}")
    out = io.StringIO()
    given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(given), contextlib.redirect_stdout(out):
        try:
            module.main()
        except SystemExit:
            answer: dict[str, Any] = json.loads(out.getvalue())
            return answer
    raise AssertionError(f"{name} ended without an answer")
