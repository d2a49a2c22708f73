"""What RFC 9110 and 9112 say about heads, for requests and responses alike."""

from __future__ import annotations

import enum
import re

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TOKEN_LIST = re.compile(rb"[ \t]*(?:" + TOKEN + rb")?(?:[ \t]*,[ \t]*(?:" + TOKEN + rb")?)*[ \t]*")
_DIGITS = re.compile(rb"[0-9]{1,18}")


class Body(enum.Enum):
    """How a message's body ends (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


def token_list(value: bytes) -> frozenset[bytes] | None:
    """The lower-case members of a comma-separated list of tokens; None when it is not one."""
    if _TOKEN_LIST.fullmatch(value) is None:
        return None
    return frozenset(
        item for item in (part.strip(b" \t") for part in value.lower().split(b",")) if item
    )


def content_length(value: bytes) -> int | None:
    """A Content-Length as a number; None unless it is plain digits.

    The list form `5, 5` that RFC 9110 section 8.6 tolerates is refused: it is a smuggler's tool
    and no sender's habit.
    """
    value = value.strip(b" \t")
    return int(value) if _DIGITS.fullmatch(value) else None


def spellings(name: bytes) -> tuple[bytes, ...]:
    """`name` with every mixture of `-` and `_`: gateways of the CGI family cannot tell them
    apart, so a look-alike must not pass as another field."""
    parts = name.split(b"-")
    variants = [parts[0]]
    for part in parts[1:]:
        variants = [variant + joint + part for variant in variants for joint in (b"-", b"_")]
    return tuple(variants)


# Fields that a nomination in Connection cannot remove: without them the message would mean
# something else (RFC 9110 section 7.6.1 forbids to nominate them).
NEVER_NOMINATED = frozenset(
    {b"content-length", b"host", b"transfer-encoding", b"x-forwarded-client-cert"}
)
# Connection options that are not names of fields to remove, or whose fields are handled anyway.
OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"trailer", b"http2-settings"})


def without(lines: list[bytes], nominated: frozenset[bytes]) -> list[bytes]:
    """`lines` (`Name: value`) except those whose name is nominated."""
    return [line for line in lines if line.partition(b":")[0].lower() not in nominated]
