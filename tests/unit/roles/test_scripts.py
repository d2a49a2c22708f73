"""The scripts that roles run: the release builder, the fetcher of Consul."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    return load("roles/fleetmesh_agent/files/build_release.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of the repository's shape."""
    root = tmp_path / "tree"
    (root / "agent/fleetmesh").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "fleetmesh"\nversion = "1.2.3"\n')
    (root / "README.md").write_text("")
    (root / "LICENSE").write_text("")
    (root / "agent/fleetmesh/__init__.py").write_text("A = 1\n")
    (root / "agent/hatch_build.py").write_text("")
    return root


def version(builder: ModuleType, tree: Path, scratch: Path) -> str:
    scratch.mkdir()
    builder.copy_sources(tree, scratch)
    stamped: str = builder.stamp(tree, scratch)
    assert f'version = "{stamped}"' in (scratch / "pyproject.toml").read_text()
    return stamped


def test_version_follows_the_content(builder: ModuleType, tree: Path, tmp_path: Path) -> None:
    """The same tree has the same version, compiled files or not; a changed one has another."""
    first = version(builder, tree, tmp_path / "a")
    assert first.startswith("1.2.3+g")
    (tree / "agent/fleetmesh/__pycache__").mkdir()
    (tree / "agent/fleetmesh/__pycache__/x.pyc").write_text("compiled")
    assert version(builder, tree, tmp_path / "b") == first
    (tree / "agent/fleetmesh/__init__.py").write_text("A = 2\n")
    assert version(builder, tree, tmp_path / "c") != first


def test_only_a_clean_tagged_tree_is_the_release(
    builder: ModuleType, tree: Path, tmp_path: Path
) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-C", str(tree)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    assert version(builder, tree, tmp_path / "untagged").startswith("1.2.3+g")
    subprocess.run([*git, "tag", "v1.2.3"], check=True)
    assert version(builder, tree, tmp_path / "tagged") == "1.2.3"
    (tree / "agent/fleetmesh/__init__.py").write_text("A = 3\n")
    assert version(builder, tree, tmp_path / "changed").startswith("1.2.3+g")


def test_archive_is_the_same_for_the_same_wheels(builder: ModuleType, tmp_path: Path) -> None:
    wheels = [tmp_path / "b.whl", tmp_path / "a.whl"]
    for wheel in wheels:
        wheel.write_text(wheel.name)
    builder.pack(tmp_path / "one.tar", wheels)
    wheels[0].touch()
    builder.pack(tmp_path / "two.tar", reversed(wheels))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["a.whl", "b.whl"]


def test_every_dependency_is_pinned(builder: ModuleType) -> None:
    """constraints.txt names an exact version of each direct dependency and of the build tools,
    which are those that pyproject.toml asks for."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in builder.CONSTRAINTS.read_text().splitlines()
        if "==" in line
    }
    wanted, needed = (
        {text.partition(">")[0].partition("<")[0].lower() for text in texts}
        for texts in (project["dependencies"], document["build-system"]["requires"])
    )
    assert needed | {"pip"} == set(builder.BUILD_TOOLS)
    assert wanted | needed <= pinned


def test_a_damaged_consul_is_not_used(tmp_path: Path) -> None:
    """The cached binary counts only while its bytes are those that were put there."""
    fetcher = load("roles/consul/files/fetch_debian_consul.py")
    assert fetcher.cached(tmp_path) is None
    binary = tmp_path / "consul"
    binary.write_bytes(b"binary")
    (tmp_path / "consul.sha256").write_text(hashlib.sha256(b"binary").hexdigest() + "\n")
    assert fetcher.cached(tmp_path) == binary
    binary.write_bytes(b"bin")
    assert fetcher.cached(tmp_path) is None


def test_apt_is_told_to_take_one_package_from_elsewhere(tmp_path: Path) -> None:
    """The private apt reads nothing of the machine's but how to reach an archive."""
    fetcher = load("roles/consul/files/fetch_debian_consul.py")
    config = fetcher.private_apt(tmp_path, "http://archive.invalid/debian")
    dumped = subprocess.run(
        ["apt-config", "dump"],
        check=True,
        capture_output=True,
        text=True,
        env={"APT_CONFIG": str(config), "PATH": "/usr/bin:/bin"},
    ).stdout
    for key in ("Dir::State", "Dir::Cache", "Dir::Etc::sourcelist", "Dir::Etc::parts"):
        assert f'{key} "{tmp_path}' in dumped
    assert "Post-Invoke" not in dumped
    pins = (tmp_path / "preferences").read_text()
    assert pins.index("Pin-Priority: -1") < pins.index("Package: consul")


def test_leftovers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("roles/fleetmesh_agent/files/leftovers.py")
    left = tmp_path / "etc"
    left.mkdir()
    monkeypatch.setattr(script, "PATHS", (str(left), str(tmp_path / "gone")))
    found = list(script.leftovers())
    assert str(left) in found
    assert str(tmp_path / "gone") not in found
