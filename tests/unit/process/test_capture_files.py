"""What capture remembers, and what it does when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetmesh.capture.redirect import Inputs, Service
from fleetmesh.capture.switch import NOTHING, Held, Pending, Switch
from fleetmesh.process.capture_files import PENDING_FILE, STATE_FILE, CaptureFiles

ONE = Inputs((Service("web", 8080, 4001, 15100),), agent_uid=990)
TWO = Inputs((Service("cart", 7001, 4002, 15101, stays_closed=True),), exclude_cidrs=("::1/128",))


@pytest.fixture
def files(tmp_path: Path) -> CaptureFiles:
    (tmp_path / "state").mkdir()
    (tmp_path / "run").mkdir()
    return CaptureFiles(tmp_path / "state", tmp_path / "run")


@pytest.mark.parametrize(
    ("in_force", "switch"),
    [
        (NOTHING, Switch()),
        (ONE, Switch(confirmed=ONE)),
        (TWO, Switch(confirmed=ONE, pending=Pending(TWO, 1234.5))),
        (ONE, Switch(confirmed=ONE, held=Held.UNDONE, undone=TWO)),
        (NOTHING, Switch(held=Held.REMOVED)),
    ],
)
def test_what_is_saved_is_loaded(files: CaptureFiles, in_force: Inputs, switch: Switch) -> None:
    files.save(TWO, Switch(pending=Pending(ONE, 1.0)))
    files.save(in_force, switch)
    assert files.load() == (in_force, switch)


def test_nothing_saved_is_nothing_remembered(files: CaptureFiles) -> None:
    assert files.load() == (NOTHING, Switch())


def test_a_deadline_is_forgotten_at_reboot(files: CaptureFiles, tmp_path: Path) -> None:
    """It counts seconds since boot, and /run is empty then."""
    files.save(TWO, Switch(confirmed=ONE, pending=Pending(TWO, 1234.5)))
    (tmp_path / "run" / PENDING_FILE).unlink()
    assert files.load() == (TWO, Switch(confirmed=ONE))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"confirmed": 3}', b"\xff\xfe"])
def test_an_unreadable_file_counts_as_none(
    files: CaptureFiles, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state" / STATE_FILE).write_bytes(content)
    assert files.load() == (NOTHING, Switch())
    assert "capture.json is unreadable" in caplog.text


def test_a_failed_write_leaves_the_old_file(
    files: CaptureFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files.save(ONE, Switch(confirmed=ONE))
    (tmp_path / "state" / "capture.new").mkdir()
    files.save(TWO, Switch(confirmed=TWO))
    assert "capture state not saved" in caplog.text
    assert files.load() == (ONE, Switch(confirmed=ONE))
