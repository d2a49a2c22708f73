"""Releases as they lie on a disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleetmesh.edge.releases import FALLBACK_FILE, READY_FILE, Home, own_home
from fleetmesh.model.release import Fallback, Releases


def install(home: Path, version: str, at: int) -> Path:
    release = home / "releases" / version
    release.mkdir(parents=True)
    (release / ".complete").write_text(version)
    os.utime(release / ".complete", (at, at))
    return release


@pytest.fixture
def home(tmp_path: Path) -> Home:
    path = tmp_path / "opt"
    install(path, "old", 1)
    prefix = install(path, "new", 2)
    (path / "releases/half").mkdir()
    state = tmp_path / "state"
    state.mkdir()
    return Home(path, state, str(prefix))


def test_a_source_tree_is_no_release(tmp_path: Path) -> None:
    assert own_home(str(tmp_path / "venv")) is None
    assert own_home(str(tmp_path / "opt/releases/1")) == (tmp_path / "opt").resolve()


def test_what_is_not_complete_is_not_there(home: Home) -> None:
    assert home.read() == Releases(running="new", installed=("old", "new"))


def test_the_one_that_served_is_kept_to_fall_back_to(home: Home) -> None:
    assert home.choose("old")
    home.prove("old")
    assert home.choose("new")
    assert not home.choose("new")
    read = home.read()
    assert (read.current, read.previous, read.ready) == ("new", "old", ("old",))
    assert (home.path / "current").readlink() == Path("releases/new")


def test_one_that_has_not_served_is_not(home: Home) -> None:
    home.choose("old")
    home.choose("new")
    assert home.read().previous == ""


def test_a_fall_back_stands_until_a_release_is_chosen(home: Home) -> None:
    home.choose("old")
    home.prove("old")
    home.choose("new")
    fallback = Fallback("new", "old", "it did not become ready in time", 1.0)
    home.fall_back(fallback)
    read = home.read()
    assert (read.current, read.fallback) == ("old", fallback)
    # The agent's user reads it.
    assert (home.path / FALLBACK_FILE).stat().st_mode & 0o777 == 0o644
    assert not home.choose("old")
    assert home.read().fallback is None


def test_junk_in_a_note_counts_as_none(home: Home, tmp_path: Path) -> None:
    (tmp_path / "state" / READY_FILE).write_text("{")
    (home.path / FALLBACK_FILE).write_text('{"failed": 1}')
    read = home.read()
    assert (read.ready, read.fallback) == ((), None)


def test_a_home_that_is_gone_has_none(tmp_path: Path) -> None:
    assert Home(tmp_path / "nothing", tmp_path, "/usr").read() == Releases()
