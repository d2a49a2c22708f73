"""YAML as it is meant, not as YAML 1.1 reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fleetmesh.model.problem import Problem
from fleetmesh.settings.document import MAX_BYTES, compose, read_text, scalar


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("on", "on"),
        ("no", "no"),
        ("22:22", "22:22"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2026-11-23", "2026-11-23"),
    ],
)
def test_a_scalar(written: str, value: object) -> None:
    """Only what looks like it is a number, true, false or nothing."""
    node = compose(f"key: {written}", "f")
    assert isinstance(node, yaml.MappingNode)
    found = scalar(node.value[0][1])
    assert found == value
    assert type(found) is type(value)


def test_a_file_too_deep() -> None:
    found = compose("a: " + "[" * 5000, "f")
    assert found == Problem("f", "is nested too deeply")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Each is a problem, none an exception."""
    large = tmp_path / "large"
    large.write_text("#" * (MAX_BYTES + 1))
    latin = tmp_path / "latin"
    latin.write_bytes(b"a: b\nc: \xe4\n")
    assert str(read_text(tmp_path)) == f"{tmp_path}: is a directory. Name a file"
    assert str(read_text(tmp_path / "none")) == f"{tmp_path / 'none'}: does not exist"
    assert str(read_text(large)) == f"{large}: is larger than 1048576 bytes"
    assert str(read_text(latin)) == f"{latin}:2: is not UTF-8. Save the file as UTF-8"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bom"
    path.write_bytes(b"\xef\xbb\xbfa: b\n")
    assert read_text(path) == "a: b\n"
