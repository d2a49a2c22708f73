"""Intentions as Consul lists them → those that decide for one destination, in order."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from fleetmesh.core.route_rules import permission_problems
from fleetmesh.model.identity import WILDCARD, Action
from fleetmesh.model.intention import Intention, Permission
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import FieldMatch
from fleetmesh.plan.answers import (
    IntentionEntry,
    PermissionEntry,
    PermissionHeader,
    PermissionHttp,
)


def readable(
    entries: Iterable[IntentionEntry],
) -> tuple[tuple[Intention, ...], tuple[Problem, ...]]:
    """The intentions of this cluster's default namespace.

    One with an unknown action, or with anything in its permissions that is not understood, denies
    its whole source, with a warning. A source of another cluster is left out: its name says
    nothing about ours.
    """
    intentions: list[Intention] = []
    warnings: list[Problem] = []
    for entry in entries:
        if entry.source_peer or not _ours(entry):
            continue
        where = f"service-intentions/{entry.destination}: Sources[{entry.source}]"
        permissions, problems = _permissions(entry, where)
        allowed = entry.action == Action.ALLOW and not entry.permissions and not problems
        warnings += problems
        intentions.append(
            Intention(
                source=entry.source,
                destination=entry.destination,
                action=Action.ALLOW if allowed else Action.DENY,
                precedence=entry.precedence or _precedence(entry),
                id=entry.id,
                permissions=() if problems else permissions,
            )
        )
    return tuple(intentions), tuple(warnings)


def not_for_tcp(service: str, intentions: Iterable[Intention]) -> tuple[Problem, ...]:
    """Of the intentions of a tcp service those that judge requests, which it has none of."""
    return tuple(
        Problem(
            f"service-intentions/{intention.destination}: Sources[{intention.source}].Permissions",
            f"{service} is a tcp service: the whole source is denied",
            "use Action in their place, or declare the service's protocol to be http",
        )
        for intention in intentions
        if intention.permissions
    )


def for_destination(service: str, intentions: Iterable[Intention]) -> tuple[Intention, ...]:
    """Those that name `service` or every destination, highest precedence first."""
    return tuple(
        sorted(
            (i for i in intentions if i.destination in {service, WILDCARD}),
            key=lambda i: (-i.precedence, i.source, i.destination),
        )
    )


def _ours(entry: IntentionEntry) -> bool:
    tenancy = {entry.source_namespace, entry.destination_namespace}
    tenancy |= {entry.source_partition, entry.destination_partition}
    return tenancy <= {"", "default", WILDCARD}


def _precedence(entry: IntentionEntry) -> int:
    """Consul's own, for an answer without it."""
    if entry.destination != WILDCARD:
        return 9 if entry.source != WILDCARD else 8
    return 6 if entry.source != WILDCARD else 5


def _permissions(entry: IntentionEntry, where: str) -> tuple[tuple[Permission, ...], list[Problem]]:
    denied = "the whole source is denied"
    if entry.jwt:
        return (), [Problem(where, f"JWT is not supported: {denied}", "take JWT out")]
    if not entry.permissions:
        if entry.action in {Action.ALLOW, Action.DENY}:
            return (), []
        rule = f"the action {entry.action!r} is unknown: {denied}"
        return (), [Problem(where, rule, "use allow or deny")]
    if entry.action:
        rule = f"has both Action and Permissions: {denied}"
        return (), [Problem(where, rule, "keep one of the two")]
    try:
        read = msgspec.convert(entry.permissions, list[PermissionEntry])
    except msgspec.ValidationError as error:
        rule, _, at = str(error).partition(" - at `$")
        place = f"{where}.Permissions{at.rstrip('`')}"
        return (), [Problem(place, f"{rule}: {denied}", "use what this version understands")]
    permissions: list[Permission] = []
    problems: list[Problem] = []
    for number, one in enumerate(read):
        place = f"{where}.Permissions[{number}]"
        if one.jwt:
            problems.append(Problem(place, f"JWT is not supported: {denied}", "take JWT out"))
            continue
        permission = _permission(one)
        permissions.append(permission)
        problems += [
            Problem(problem.path, f"{problem.rule}: {denied}", problem.remedy)
            for problem in permission_problems(permission, place)
        ]
    return tuple(permissions), problems


def _permission(entry: PermissionEntry) -> Permission:
    http = entry.http or PermissionHttp()
    return Permission(
        action=Action(entry.action),
        path_exact=http.path_exact,
        path_prefix=http.path_prefix,
        path_regex=http.path_regex,
        headers=tuple(_field(header) for header in http.headers or ()),
        methods=tuple(http.methods or ()),
    )


def _field(header: PermissionHeader) -> FieldMatch:
    """What has no criterion of its own (Contains, or text in either case) becomes a regex. Of two
    kinds both stay, which is a problem."""
    match = FieldMatch(
        name=header.name,
        present=header.present,
        exact=header.exact,
        prefix=header.prefix,
        suffix=header.suffix,
        regex=header.regex,
        invert=header.invert,
    )
    texts = (
        ("exact", header.exact, "{}"),
        ("prefix", header.prefix, r"{}\C*"),
        ("suffix", header.suffix, r"\C*{}"),
        ("contains", header.contains, r"\C*{}\C*"),
    )
    given = [(kind, text, form) for kind, text, form in texts if text]
    if len(given) + header.present + bool(header.regex) > 1:
        return msgspec.structs.replace(match, present=True, exact=match.exact or "?")
    flags = "(?i)" if header.ignore_case else ""
    for kind, text, form in given:
        if kind == "contains" or header.ignore_case:
            regex = flags + form.replace("{}", re.escape(text))
            return FieldMatch(name=header.name, regex=regex, invert=header.invert)
    if header.regex and header.ignore_case:
        return msgspec.structs.replace(match, regex=f"(?i){header.regex}")
    return match
