"""Intentions as Consul lists them → those that decide for one destination, in order."""

from __future__ import annotations

from collections.abc import Iterable

from fleetmesh.model.identity import WILDCARD, Action, Intention
from fleetmesh.model.problem import Problem
from fleetmesh.plan.answers import IntentionEntry


def readable(
    entries: Iterable[IntentionEntry],
) -> tuple[tuple[Intention, ...], tuple[Problem, ...]]:
    """The intentions of this cluster's default namespace.

    One with permissions or an unknown action denies, with a warning. A source of another cluster
    is left out: its name says nothing about ours.
    """
    intentions: list[Intention] = []
    warnings: list[Problem] = []
    for entry in entries:
        if entry.source_peer or not _ours(entry):
            continue
        action = Action.ALLOW if entry.action == Action.ALLOW else Action.DENY
        if entry.permissions:
            action = Action.DENY
        if entry.permissions or entry.action not in {Action.ALLOW, Action.DENY}:
            warnings.append(
                Problem(
                    f"service-intentions/{entry.destination}: Sources[{entry.source}]",
                    "permissions by request are not applied: the whole source is denied",
                    "use Action in their place",
                )
            )
        intentions.append(
            Intention(
                source=entry.source,
                destination=entry.destination,
                action=action,
                precedence=entry.precedence or _precedence(entry),
                id=entry.id,
            )
        )
    return tuple(intentions), tuple(warnings)


def for_destination(service: str, intentions: Iterable[Intention]) -> tuple[Intention, ...]:
    """Those that name `service` or every destination, highest precedence first."""
    return tuple(
        sorted(
            (i for i in intentions if i.destination in {service, WILDCARD}),
            key=lambda i: (-i.precedence, i.source, i.destination),
        )
    )


def _ours(entry: IntentionEntry) -> bool:
    namespaces = {entry.source_namespace, entry.destination_namespace}
    return namespaces <= {"", "default", WILDCARD}


def _precedence(entry: IntentionEntry) -> int:
    """Consul's own, for an answer without it."""
    if entry.destination != WILDCARD:
        return 9 if entry.source != WILDCARD else 8
    return 6 if entry.source != WILDCARD else 5
