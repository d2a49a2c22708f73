"""Builds the wheel with the relay path compiled to C by mypyc, where there is a compiler.

The sources are in the wheel too and are what runs where nothing was compiled: in an editable
install, on a machine without a C compiler, with FLEETMESH_COMPILE=0 (1 makes a failure fatal).
`python agent/hatch_build.py DIRECTORY` leaves a compiled copy of the package, for PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as Hook
except ImportError:  # run as a script
    Hook = object

AGENT = Path(__file__).parent
PACKAGES = ("balance", "core", "proxy")
SETUP = """\
from setuptools import setup
from mypyc.build import mypycify

options = ["--python-version=3.11", "--ignore-missing-imports"]
setup(name="fleetmesh", packages=[], ext_modules=mypycify([*options, *{modules!r}], opt_level="3",
      debug_level="0"))
"""


def compiled(directory: Path) -> list[Path]:
    """Copy the package to `directory` and compile it there; the libraries, relative to it.

    Raises subprocess.CalledProcessError with what the compiler said.
    """
    target = directory / "fleetmesh"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(AGENT / "fleetmesh", target, ignore=shutil.ignore_patterns("__pycache__"))
    modules = [
        str(module.relative_to(directory))
        for package in PACKAGES
        for module in sorted((target / package).glob("*.py"))
        if module.name != "__init__.py"
    ]
    script = directory / "compile.py"
    script.write_text(SETUP.format(modules=modules))
    try:
        subprocess.run(
            [sys.executable, script.name, "--quiet", "build_ext", "--inplace"],
            check=True,
            capture_output=True,
            text=True,
            cwd=directory,
            env={**os.environ, "CFLAGS": "-O3", "MYPYPATH": str(directory)},
        )
    finally:
        script.unlink()
        shutil.rmtree(directory / "build", ignore_errors=True)
    return sorted(path.relative_to(directory) for path in directory.rglob("*.so"))


class CompileRelayPath(Hook):  # type: ignore[misc,valid-type]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = os.environ.get("FLEETMESH_COMPILE", "")
        if version == "editable" or wish == "0":
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="fleetmesh-compile-")
        directory = Path(self._scratch.name)
        try:
            libraries = compiled(directory)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stdout", "") + getattr(error, "stderr", "")
            if wish == "1":
                raise RuntimeError(f"the relay path does not compile: {error}\n{said}") from error
            self.app.display_warning(f"the wheel is not compiled, and slower: {error}\n{said}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update(
            {str(directory / library): str(library) for library in libraries}
        )

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        scratch = getattr(self, "_scratch", None)
        if scratch is not None:
            scratch.cleanup()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    try:
        print(*compiled(place), sep="\n")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{failed}\n{failed.stdout}{failed.stderr}")
