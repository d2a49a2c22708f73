"""How single values of a file are written, beyond their Python type.

A Kind stands in the annotation of a field (`Annotated[int, PORT]`). It reads what the file says
into the value the program uses, or says what is wrong; its `text` is what the reference documents.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

SERVICE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,30}\$?", re.IGNORECASE)
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.service")
_SERVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)")
UNIX_PATH: Final = 108
"""Bytes that the kernel takes of a Unix socket's path, with the zero that ends it."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class Wrong(msgspec.Struct, frozen=True):
    """Why a value is refused, and how to write it."""

    rule: str
    remedy: str = ""


class Kind(msgspec.Struct, frozen=True):
    """`read` takes a YAML scalar (str, int, float or bool) and returns a value or a Wrong."""

    text: str
    read: Callable[[object], object]


class Hidden(msgspec.Struct, frozen=True):
    """Marks a field of a struct that no file may set."""


def shown(value: object) -> str:
    """A value of a file as its writer knows it: text in quotes, true and false in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _whole(what: str, low: int, high: int) -> Kind:
    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int):
            return Wrong(f"must be {what}, not {shown(value)}", "Write a whole number")
        if not low <= value <= high:
            return Wrong(f"must be {what}, not {value}")
        return value

    return Kind(what, read)


def _matching(what: str, pattern: re.Pattern[str], remedy: str = "") -> Kind:
    def read(value: object) -> object:
        if not isinstance(value, str):
            return Wrong(f"must be {what}, not {shown(value)}", f'If it is meant, quote: "{value}"')
        return value if pattern.fullmatch(value) else Wrong(f'"{value}" is not {what}', remedy)

    return Kind(what, read)


def choice(names: Iterable[str]) -> Kind:
    """One of these words."""
    words = tuple(names)
    known = ", ".join(words)

    def read(value: object) -> object:
        if value in words:
            return value
        return Wrong(f"must be one of {known}, not {shown(value)}")

    return Kind(f"one of {known}", read)


def seconds_of(value: object) -> float | Wrong:
    """Seconds from a number or from Go's notation (`250ms`, `1m30s`)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            return Wrong("must be a finite number of seconds")
        return float(value) if value >= 0 else Wrong(f"must not be negative, but is {value}")
    if isinstance(value, str) and _DURATION.fullmatch(value):
        parts = _DURATION_PART.findall(value)
        return float(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return Wrong(
        f"must be a duration, not {shown(value)}", "Write seconds (5) or units (250ms, 5s, 1m30s)"
    )


def go_duration(seconds: float) -> str:
    """Seconds as Consul takes them: `5s`, `250ms`."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    return f"{milliseconds // 1000}s"


def _duration(what: str, low: float, high: float) -> Kind:
    def read(value: object) -> object:
        seconds = seconds_of(value)
        if isinstance(seconds, float) and not low <= seconds <= high:
            return Wrong(
                f"must be between {go_duration(low)} and {go_duration(high)}, not {shown(value)}"
            )
        return seconds

    return Kind(f"{what}, {go_duration(low)} to {go_duration(high)}", read)


def _ip(value: object, version: int | None) -> object:
    family = f"IPv{version}" if version else "IP"
    remedy = (
        "Write the host's own address, 2001:db8::5"
        if version == 6
        else ("Write the host's own address, 192.0.2.5")
    )
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        return Wrong(f"must be an {family} address, not {shown(value)}", remedy)
    if version and address.version != version:
        return Wrong(f"must be an {family} address, but {address} is IPv{address.version}", remedy)
    if address.is_unspecified or address.is_multicast:
        return Wrong(f"{address} is not the address of one host", remedy)
    return str(address)


def _cidr(value: object) -> object:
    try:
        return str(ipaddress.ip_network(str(value)))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        return Wrong(
            f"must be a network, not {shown(value)}", "Write 192.0.2.0/24 or 2001:db8::/32"
        )
    return Wrong(f"{value} has bits set beyond its prefix", f"Did you mean {network}?")


def http_url(value: object) -> SplitResult | None:
    """The parts of an http or https URL with a host, and a valid port where it names one."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            return None
        return parts if parts.port != 0 else None
    except ValueError:  # brackets that hold no IPv6 address, or a port out of range
        return None


def _url(value: object) -> object:
    remedy = "Write http://127.0.0.1:8500"
    parts = http_url(value)
    if parts is None:
        return Wrong(f"must be an http or https URL, not {shown(value)}", remedy)
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        return Wrong("must be scheme, host and port only", remedy)
    return str(value).rstrip("/")


def _consul(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("unix:"):
        return _url(value)
    path = value.removeprefix("unix://")
    if path.startswith("/") and not path.endswith("/") and len(path) < UNIX_PATH:
        return value
    return Wrong(
        f"{shown(value)} does not name a Unix socket", "Write unix:///run/consul/consul.sock"
    )


def _host_port(value: object) -> object:
    host, _, port = str(value).rpartition(":")
    address = _ip(host.removeprefix("[").removesuffix("]"), None)
    if isinstance(address, Wrong) or not port.isdecimal() or not 0 < int(port) < 65536:
        return Wrong(f"must be an address and a port, not {shown(value)}", "Write 127.0.0.1:15020")
    return str(value)


def _path(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return Wrong(f"must be an absolute path, not {shown(value)}", "Begin it with /")
    return value


def _share(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Wrong(f"must be a share, 0 to 1, not {shown(value)}", "Write a number such as 0.01")
    if not 0 <= value <= 1:
        return Wrong(f"must be a share, 0 to 1, not {shown(value)}", "1 is all of them")
    return float(value)


def _rate(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Wrong(f"must be a number, not {shown(value)}", "Write requests a second, such as 50")
    if not 0.001 <= value <= 1_000_000:
        return Wrong(f"must be from 0.001 to 1000000 requests a second, not {shown(value)}")
    return float(value)


def _multiple(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1000:
        return Wrong(f"must be a number, 0 to 1000, not {shown(value)}", "0 is never")
    return float(value)


def _switch(value: object) -> object:
    return value if isinstance(value, bool) else Wrong(f"must be true or false, not {shown(value)}")


def _name(value: object) -> object:
    if isinstance(value, str) and SERVICE_NAME.fullmatch(value):
        if value == "consul" or value.endswith("-sidecar-proxy"):
            return Wrong(f'"{value}" is reserved', "Choose another service name")
        return value
    return Wrong(
        f"{shown(value)} is not a service name",
        "Use 1 to 63 lower-case letters, digits and hyphens, beginning and ending with a letter "
        "or digit",
    )


def _callers(value: object) -> object:
    remedy = 'Write "web shop", or "*" for all'
    names = str(value).split()
    if names == ["*"]:
        return ("*",)
    for name in names:
        if isinstance(_name(name), Wrong):
            return Wrong(f'"{name}" is not a service name', remedy)
    return tuple(names) or Wrong("names nobody", remedy)


PORT = _whole("a port, 1 to 65535", 1, 65535)
WORKERS = _whole("a number of workers, 0 (one per core) to 256", 0, 256)
WEIGHT = _whole("a weight, 1 to 65535", 1, 65535)
WARNING_WEIGHT = _whole("a weight, 0 to 65535", 0, 65535)
HEAD_BYTES = _whole("a number of bytes, 1024 to 1048576", 1024, 1 << 20)
TARGET_BYTES = _whole("a number of bytes, 256 to 1048576", 256, 1 << 20)
BODY_BYTES = _whole("a number of bytes (0: no limit), 0 to 1099511627776", 0, 1 << 40)
IDLE = _whole("a number of connections, 0 to 65535", 0, 65535)
PLACES = _whole("a number (0: no limit), 0 to 1000000", 0, 1_000_000)
HELD = _whole("a number (0: what open files allow), 0 to 1000000", 0, 1_000_000)
RETRIES = _whole("a number of retries, 0 to 10000", 0, 10_000)
BURST = _whole("a number of requests, 1 to 1000000", 1, 1_000_000)
TRIES = _whole("a number of retries (0: none), 0 to 10", 0, 10)
TTL = _whole("a number of seconds, 0 to 3600", 0, 3600)
STREAK = _whole("a number (0: never), 0 to 10000", 0, 10_000)
MULTIPLE = Kind("a number (0: never), 0 to 1000", _multiple)
PERCENT = _whole("a percentage, 0 to 100", 0, 100)
WARM = _whole("a number of connections, 0 to 1000", 0, 1000)
HEADERS = _whole("a number of headers, 10 to 1000", 10, 1000)
WATCHES = _whole("a number of queries, 10 to 1000", 10, 1000)
RECORDS = _whole("a number of records, 1 to 100000", 1, 100_000)
SWITCH = Kind("true or false", _switch)
RATE = Kind("requests a second, 0.001 to 1000000", _rate)
SHARE = Kind("a share, 0 to 1", _share)
TIMEOUT = _duration("a duration", 0.1, 86400)
DETECT = _duration("a duration", 0.01, 60)
DRAIN = _duration("a duration", 0, 3600)
DEADLINE = _duration("a duration (0: none)", 0, 86400)
UNREACHABLE = _duration("a duration (0: never)", 0, 60)
SLOW_START = _duration("a duration (0: none)", 0, 3600)
KEEPALIVE = _duration("a duration (0: none)", 0, 32767)
CONFIRM = _duration("a duration", 5, 3600)
ADDRESS = Kind("an IP address", lambda value: _ip(value, None))
ADDRESS6 = Kind("an IPv6 address", lambda value: _ip(value, 6))
CIDR = Kind("a network in CIDR notation", _cidr)
CONSUL = Kind("an http or https URL without a path, or unix:// and a path", _consul)
HOST_PORT = Kind("an address and a port", _host_port)
PATH = Kind("an absolute path", _path)
CALLERS = Kind("names of services with blanks between them, or `*` for all", _callers)
LOG_LEVEL = choice(("debug", "info", "warning", "error"))
NAME = Kind("a service name: 1 to 63 lower-case letters, digits and hyphens", _name)
ID = _matching("a service ID", _SERVICE_ID, "Use letters, digits and any of _ . : -")
USER = _matching("a user name", _USER_NAME)
UNIT = _matching("a systemd service unit", _UNIT_NAME, "Write its full name: cart.service")
