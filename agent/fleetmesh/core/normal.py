"""Paths in one spelling, for rules that say who may ask for what.

An application decodes escapes, resolves dot segments, takes a backslash for a slash or many
slashes for one, or does none of it. What `normal` gives means the same to all of them, so it is
what is judged and what is forwarded. What cannot be made so is ambiguous: an escaped slash or
backslash, a control character, an escape without two digits, text that is no UTF-8 (overlong forms
of a slash are among it), parameters of a dot segment or of none (`..;a`, `;a`).
"""

from __future__ import annotations

import re

# A path with none of these is in its one spelling already.
_SUSPECT = re.compile(rb"[%\\\x00-\x20\x7f-\xff]|//|/[.;]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(rb"%(?:2[Ff]|5[Cc]|[01][0-9A-Fa-f]|7[Ff])|[\x00-\x20\x7f]")
_DOTS_WITH_PARAMETERS = re.compile(rb"/\.?\.?(?:;|%3[Bb])")
_SLASHES = re.compile(rb"/{2,}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normal(target: bytes) -> bytes | None:
    """A request target of origin form (or `*`), with its path in the one spelling and its query
    as it was; None when its path is ambiguous."""
    path, mark, query = target.partition(b"?")
    if _SUSPECT.search(path) is None:
        return target
    if _BROKEN.search(path) is not None or _FORBIDDEN.search(path) is not None:
        return None
    path = _ESCAPE.sub(_respelled, path).replace(b"\\", b"/")
    path = _SLASHES.sub(b"/", path)
    if _DOTS_WITH_PARAMETERS.search(path) is not None:
        return None
    try:
        decoded(path).decode()
    except UnicodeDecodeError:
        return None
    return _without_dots(path) + mark + query


def decoded(path: bytes) -> bytes:
    """`path` with every escape as the byte that it stands for; what is no escape stays."""
    return _ESCAPE.sub(_meant, path) if b"%" in path else path


def _respelled(escape: re.Match[bytes]) -> bytes:
    """What is unreserved by itself, all else with capital digits (RFC 3986 section 6.2.2)."""
    byte = int(escape[1], 16)
    return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte


def _meant(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 16)])


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4, for a path without empty segments: nothing lies above the root."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments and segments[-1] in (b".", b"..") and kept and kept[-1] != b"":
        kept.append(b"")
    return b"/" + b"/".join(kept)
