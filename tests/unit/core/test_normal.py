"""Paths in one spelling: what is judged is what every application makes of what is forwarded."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleetmesh.core.normal import decoded, normal


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"/"),
        (b"*", b"*"),
        (b"/a/b?x=%2f../", b"/a/b?x=%2f../"),
        (b"/%61dmin", b"/admin"),
        (b"/a%3ab%7e", b"/a%3Ab~"),
        (b"/a/../b", b"/b"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/..", b"/"),
        (b"/../../a", b"/a"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"//a///b", b"/a/b"),
        (b"/a//../b", b"/b"),
        (b"/a\\..\\b", b"/b"),
        (b"/.a/..b/c.", b"/.a/..b/c."),
        (b"/%252e%252e/a", b"/%252e%252e/a"),
        (b"/caf%c3%a9", b"/caf%C3%A9"),
    ],
)
def test_one_spelling(target: bytes, expected: bytes) -> None:
    assert normal(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        b"/a%2fb",
        b"/a%2Fb",
        b"/a%5cb",
        b"/a%00",
        b"/a%0a",
        b"/a%7f",
        b"/a%",
        b"/a%2",
        b"/a%zz",
        b"/%c0%ae%c0%ae/a",
        b"/a%ff",
        b"/a\xff",
        b"/a/..;/b",
        b"/;a/b",
        b"/a/%2e.%3bx/b",
    ],
)
def test_ambiguous(target: bytes) -> None:
    assert normal(target) is None


def test_decoded_leaves_what_is_no_escape() -> None:
    assert decoded(b"/a%20b%zz%25") == b"/a b%zz%"


TEXT = rb"/ // \ . .. %2e %2E %2f %5C %25 % admin a %61dmin ; %3b %00 %c0%af %c3%a9 : %3A %3f"
PIECES = st.sampled_from(TEXT.split(b" "))
TARGETS = st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces))


def applications(path: bytes) -> list[bytes]:
    """What naive ones make of a path: in each order of decoding and resolving, with a backslash
    as a slash or without, with parameters of segments or without."""
    found = []
    for text in (path, unquote_to_bytes(path)):
        for slashes in (text, text.replace(b"\\", b"/")):
            for plain in (slashes, re.sub(rb";[^/]*", b"", slashes)):
                resolved = posixpath.normpath(b"/" + plain.lstrip(b"/"))
                found += [
                    resolved,
                    unquote_to_bytes(resolved),
                    posixpath.normpath(unquote_to_bytes(resolved)),
                ]
    return found


@settings(max_examples=1500, deadline=None)
@given(TARGETS)
@example(b"/a/..%2fadmin")
@example(b"/a%5c..%5cadmin")
@example(b"/x/..;/admin")
@example(b"/;/admin")
def test_no_application_finds_itself_elsewhere_than_was_judged(target: bytes) -> None:
    forwarded = normal(target)
    if forwarded is None:
        return
    judged = decoded(forwarded)
    for path in applications(forwarded):
        if path == b"/admin" or path.startswith(b"/admin/"):
            assert judged.startswith(b"/admin"), (forwarded, path)


@settings(max_examples=1500, deadline=None)
@given(TARGETS)
def test_idempotent(target: bytes) -> None:
    once = normal(target)
    if once is not None:
        assert normal(once) == once


@settings(max_examples=1500, deadline=None)
@given(TARGETS)
def test_whatever_is_forwarded_has_nothing_left_to_resolve(target: bytes) -> None:
    forwarded = normal(target)
    if forwarded is not None:
        segments = decoded(forwarded).split(b"/")[1:]
        assert not {b".", b".."} & set(segments)
        assert b"" not in segments[:-1]
        assert b"\\" not in decoded(forwarded)
