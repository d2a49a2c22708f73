"""Consul check definitions: any of Consul's spellings in, the form of Consul's API out.

The keys are those of Consul's agent API (`PUT /v1/agent/check/register`); `interval`, `Interval`
and, for joined words, `tls_skip_verify` and `TLSSkipVerify` name the same key.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fleetmesh.settings.decode import Reader, joined, suggestion
from fleetmesh.settings.kinds import Wrong, go_duration, http_url, seconds_of, shown

TEXT: Final = frozenset(
    {
        *("CheckID", "Name", "Notes", "Status", "HTTP", "Method", "Body", "TCP", "UDP", "GRPC"),
        *("H2PING", "Shell", "DockerContainerID", "AliasService", "AliasNode", "OSService"),
        "TLSServerName",
    }
)
DURATIONS: Final = {
    "Interval": 1.0,
    "Timeout": 0.001,
    "TTL": 1.0,
    "DeregisterCriticalServiceAfter": 60.0,
}
FLAGS: Final = frozenset({"TLSSkipVerify", "GRPCUseTLS", "H2PingUseTLS", "DisableRedirects"})
COUNTS: Final = frozenset(
    {"SuccessBeforePassing", "FailuresBeforeWarning", "FailuresBeforeCritical", "OutputMaxSize"}
)
KNOWN: Final = TEXT | FLAGS | COUNTS | frozenset(DURATIONS) | {"Args", "Header"}
METHODS: Final = (
    "HTTP",
    "TCP",
    "UDP",
    "GRPC",
    "H2PING",
    "TTL",
    "Args",
    "OSService",
    "AliasService",
    "AliasNode",
)
UNPOLLED: Final = {"TTL", "AliasService", "AliasNode"}
_HTTP_ONLY: Final = ("Method", "Header", "Body", "DisableRedirects")
_HOST_PORT = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
_SPELLINGS: Final = {name.lower(): name for name in KNOWN} | {
    "id": "CheckID",
    "scriptargs": "Args",
}


def snake(name: str) -> str:
    """A key of Consul's API as these files usually spell it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def normalise(reader: Reader, key: str, definition: dict[str, Any]) -> dict[str, Any]:
    """`definition` in the form of Consul's API; what is wrong with it goes to `reader`."""
    found: dict[str, Any] = {}
    for written, value in definition.items():
        path = joined(key, written)
        name = _SPELLINGS.get(written.replace("_", "").lower())
        if name is None:
            reader.problem(path, "is not a key of a check", suggestion(written, map(snake, KNOWN)))
        elif name in found:
            reader.problem(path, f"repeats {snake(name)} in another spelling", "Keep one")
        else:
            read = _value(name, value)
            if isinstance(read, Wrong):
                reader.problem(path, read.rule, read.remedy)
            found[name] = read
    _rules(reader, key, found)
    return found


def _value(name: str, value: Any) -> Any:
    if name in DURATIONS:
        return _duration(name, value)
    if name in FLAGS:
        return (
            value
            if isinstance(value, bool)
            else Wrong(f"must be true or false, not {shown(value)}")
        )
    if name in COUNTS:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return value if whole else Wrong(f"must be a whole number from 0, not {shown(value)}")
    if name == "Args":
        return _args(value)
    if name == "Header":
        return _header(value)
    if not isinstance(value, str) or not value:
        return Wrong(f"must be text, not {shown(value)}", "Write it in quotes")
    return _text(name, value)


def _duration(name: str, value: Any) -> str | Wrong:
    seconds = seconds_of(value)
    if isinstance(seconds, Wrong):
        return seconds
    least = DURATIONS[name]
    if seconds < least:
        return Wrong(f"must be at least {go_duration(least)}, not {shown(value)}")
    return go_duration(seconds)


def _args(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    return Wrong("must be a list of texts", 'Write ["/usr/lib/nagios/check", "-w", "5"]')


def _header(value: Any) -> Any:
    remedy = "Write name: [value, …]"
    if not isinstance(value, dict):
        return Wrong("must hold a list of values per header", remedy)
    found = {}
    for name, values in value.items():
        listed = values if isinstance(values, list) else [values]
        if not all(isinstance(item, str) for item in listed):
            return Wrong(f'has a value of header "{name}" that is not text', remedy)
        found[name] = listed
    return found


def _text(name: str, value: str) -> str | Wrong:
    if name == "HTTP" and http_url(value) is None:
        return Wrong(f"must be a URL, not {shown(value)}", "Write http://127.0.0.1:8080/health")
    if name in ("TCP", "UDP", "H2PING"):
        match = _HOST_PORT.fullmatch(value)
        if match is None or not 0 < int(match[1]) < 65536:
            return Wrong(f"must be a host and a port, not {shown(value)}", "Write 127.0.0.1:8080")
    if name == "Status" and value not in ("passing", "warning", "critical"):
        return Wrong(f"must be one of passing, warning, critical, not {shown(value)}")
    return value


def _rules(reader: Reader, key: str, found: dict[str, Any]) -> None:
    methods = [name for name in METHODS if name in found]
    spelled = ", ".join(map(snake, METHODS))
    if set(methods) == {"AliasService", "AliasNode"}:
        methods = ["AliasService"]
    if not methods:
        reader.problem(key, "checks nothing", f"Add one of {spelled}")
        return
    if len(methods) > 1:
        named = " and ".join(map(snake, methods))
        reader.problem(key, f"has {named}", "Keep one and make another check of the other")
        return
    method = methods[0]
    polled = method not in UNPOLLED
    if polled and "Interval" not in found:
        reader.problem(key, "has no interval", "Add interval: 10s")
    if not polled and "Interval" in found:
        reader.problem(
            key, f"has an interval, which a {snake(method)} check does not use", "Remove it"
        )
    for name in _HTTP_ONLY:
        if name in found and method != "HTTP":
            reader.problem(key, f"has {snake(name)}, which only an http check uses", "Remove it")
    for name in ("Shell", "DockerContainerID"):
        if name in found and method != "Args":
            reader.problem(key, f"has {snake(name)}, which only an args check uses", "Remove it")
