"""Imports point one way, and every module imports alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

# Third-party modules are loaded first, then one fork per module of ours: no module can lean on
# what another has imported.
ALONE = """
import importlib, os, sys, traceback
import aiohttp.web, cryptography.x509, msgspec, prometheus_client, pyroute2, rich.console, typer
import uvloop, yaml
for name in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        try:
            importlib.import_module(name)
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def modules() -> list[str]:
    package = ROOT / "agent" / "fleetmesh"
    parts = (
        path.relative_to(ROOT / "agent").with_suffix("").parts for path in package.rglob("*.py")
    )
    return sorted(".".join(part for part in path if part != "__init__") for path in parts)


def test_import_contracts_are_kept() -> None:
    """Layers, purity, netlink, strangers: see pyproject.toml."""
    done = subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[done.stdout.find("Contracts") :]
    assert "0 broken" in done.stdout


def test_every_module_imports_alone() -> None:
    names = modules()
    assert "fleetmesh.model.identity" in names
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", ALONE, *names],
        env={"PYTHONPATH": str(ROOT / "agent")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("module", ["fleetmesh.model.snapshot", "fleetmesh.capture.redirect"])
def test_pure_packages_load_no_machinery(module: str) -> None:
    """Whatever they import in turn: no event loop, no netlink, no HTTP client."""
    program = (
        f"import sys, {module}\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}"
        " & {'asyncio', 'pyroute2', 'aiohttp', 'ssl', 'uvloop', 'systemd'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "agent")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
