"""Access records as the journal gets them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.record import record

from fleetmesh.edge import journal


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(2)
        yield sock


def test_an_entry_has_a_field_for_all_that_is_known(
    journald: socket.socket, tmp_path: Path
) -> None:
    """One datagram, one entry; empty values are left out."""
    known = record(reason="denied", status=403, first_byte=None)
    assert journal.Journal(str(tmp_path / "journal")).write([known, known]) == 0
    fields = dict(line.split("=", 1) for line in journald.recv(9000).decode().splitlines())
    assert fields["MESSAGE"] == "web => api GET /items/7 403 (denied) in 4.2 ms"
    assert fields["FLEETMESH_EVENT"] == "request"
    assert fields["FLEETMESH_SOURCE"] == "web"
    assert fields["FLEETMESH_STATUS"] == "403"
    assert fields["FLEETMESH_SAMPLED"] == "true"
    assert fields["FLEETMESH_DURATION"] == "0.004200"
    assert not {"FLEETMESH_FIRST_BYTE", "FLEETMESH_PARENT_ID"} & fields.keys()


def test_a_busy_journal_is_not_waited_for(journald: socket.socket, tmp_path: Path) -> None:
    """What does not fit into its queue is dropped and counted."""
    writer = journal.Journal(str(tmp_path / "journal"))
    many = [record()] * 2000
    dropped = writer.write(many)
    assert 0 < dropped < 2000
    journald.setblocking(False)
    received = 0
    while received < 2000 - dropped:
        journald.recv(9000)
        received += 1
    assert writer.write(many[:1]) == 0


def test_a_journal_that_comes_back_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writer = journal.Journal(str(path))
    assert writer.write([record()] * 3) == 3
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        assert writer.write([record()]) == 0


def test_no_value_begins_a_line_of_its_own() -> None:
    entry = journal.entry(record(path="/a\nPRIORITY=0"))
    assert b"FLEETMESH_PATH=/a\\nPRIORITY=0\n" in entry
    assert b"\nPRIORITY=0\n" not in entry


def test_without_a_journal_records_are_lines_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    caplog.set_level(logging.INFO)
    assert journal.sink()([record()]) == 0
    assert caplog.messages == ["web => api GET /items/7 200 in 4.2 ms"]
