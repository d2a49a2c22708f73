from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Leaf, LocalService, Mode, Snapshot
from fleetmesh.model.traffic import Protocol
from fleetmesh.process import cache
from fleetmesh.process.cache import ASIDE, NAME, SnapshotCache, load, save, unexpired

WEB = LocalService(
    "web",
    "web",
    "127.0.0.1",
    80,
    Protocol.HTTP,
    Mode.STRICT,
    SpiffeId("td", "dc1", "web"),
    (),
    Leaf("0a", 1000.0, 2000.0, "CHAIN", "KEY"),
)
SNAPSHOT = Snapshot("td", "dc1", "n", ("ROOT",), (WEB,), ())
NOW = 1500.0


def test_comes_back_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    save(str(tmp_path / "state"), SNAPSHOT)
    assert load(str(tmp_path / "state"), NOW) == SNAPSHOT
    assert stat.S_IMODE((tmp_path / "state" / NAME).stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "state") == [NAME]  # noqa: PTH208


def test_a_wide_umask_or_a_leftover_opens_nothing(tmp_path: Path) -> None:
    """A file that somebody else holds open under the temporary name does not get the keys."""
    leftover = tmp_path / f".{NAME}.new"
    leftover.write_bytes(b"")
    leftover.chmod(0o666)
    before = os.umask(0)
    try:
        with leftover.open("rb") as held:
            save(str(tmp_path), SNAPSHOT)
            assert held.read() == b""
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert load(str(tmp_path / "nowhere"), NOW) is None


def test_expired_certificates_are_not_served(tmp_path: Path) -> None:
    save(str(tmp_path), SNAPSHOT)
    found = load(str(tmp_path), 2000.0)
    assert isinstance(found, Snapshot)
    assert found.services[0].leaf is None
    assert unexpired(SNAPSHOT, 1999.0) == SNAPSHOT


@pytest.mark.parametrize("cut", [0, 10, 84, 90, -1])
def test_a_truncated_file_is_set_aside(tmp_path: Path, cut: int) -> None:
    save(str(tmp_path), SNAPSHOT)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:cut])
    refused(tmp_path, "")


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    save(str(tmp_path), SNAPSHOT)
    path = tmp_path / NAME
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        path.chmod(0o600)
        refused(tmp_path, "")


def test_a_digest_over_something_else_is_refused(tmp_path: Path) -> None:
    """As a version of another shape would write it."""
    (tmp_path / NAME).write_bytes(cache._head(b"\x90") + b"\x90")
    (tmp_path / NAME).chmod(0o600)
    refused(tmp_path, "Expected `object`")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    save(str(tmp_path), SNAPSHOT)
    (tmp_path / NAME).chmod(mode)
    refused(tmp_path, f"mode {mode:04o}")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    save(str(tmp_path), SNAPSHOT)
    os.chown(tmp_path / NAME, 1, 1)
    refused(tmp_path, "belongs to uid 1")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    save(str(tmp_path / "elsewhere"), SNAPSHOT)
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere" / NAME)
    refused(tmp_path, "")
    assert load(str(tmp_path / "elsewhere"), NOW) == SNAPSHOT


def test_a_pipe_does_not_stop_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME, 0o600)
    refused(tmp_path, "no regular file")


def refused(directory: Path, why: str) -> None:
    found = load(str(directory), NOW)
    assert isinstance(found, Problem)
    assert found.path == str(directory / NAME)
    assert why in found.rule
    assert os.path.lexists(directory / ASIDE)
    assert not os.path.lexists(directory / NAME)


async def test_newest_of_many_is_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storm of changes is not a storm of fsyncs; what waits at the end is written."""
    written: list[str] = []

    def counted(state_dir: str, snapshot: Snapshot) -> None:
        written.append(snapshot.node)
        save(state_dir, snapshot)

    monkeypatch.setattr(cache, "save", counted)
    one = SnapshotCache(str(tmp_path))
    one.keep(SNAPSHOT)
    await asyncio.sleep(0.1)
    for n in range(50):
        one.keep(replace(SNAPSHOT, node=f"n{n}"))
    await one.close()
    assert written == ["n", "n49"]
    assert await SnapshotCache(str(tmp_path)).recall(NOW) == replace(SNAPSHOT, node="n49")


async def test_problem_stands_until_a_file_is_written(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("junk")
    one = SnapshotCache(str(tmp_path))
    assert await one.recall(NOW) is None
    assert [problem.path for problem in one.problems] == [str(tmp_path / NAME)]
    one.keep(SNAPSHOT)
    await one.close()
    assert one.problems == []


async def test_unwritable_state_is_a_problem_and_no_end(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    one = SnapshotCache(str(tmp_path / "state"))
    one.keep(SNAPSHOT)
    await one.close()
    assert "cannot be written" in one.problems[0].rule
