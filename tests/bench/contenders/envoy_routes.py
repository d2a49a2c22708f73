"""The routes in Envoy's words, as Consul translates a service-router for it."""

from __future__ import annotations

from typing import Any

from tests.bench.routes import routes, service

from fleetmesh.model.traffic import FieldMatch, Match, QueryMatch


def translated() -> list[dict[str, Any]]:
    return [
        {"name": route.name, "match": matching(route.match), "route": {"cluster": service(number)}}
        for number, route in enumerate(routes())
    ]


def matching(match: Match) -> dict[str, Any]:
    said: dict[str, Any] = {"prefix": match.path_prefix or "/"}
    if match.path_exact:
        said = {"path": match.path_exact}
    elif match.path_regex:
        said = {"safe_regex": {"regex": match.path_regex}}
    fields = [_field(field) for field in match.headers]
    if match.methods:
        method = {"safe_regex": {"regex": "|".join(match.methods)}}
        fields.append({"name": ":method", "string_match": method})
    return said | {"headers": fields, "query_parameters": [_parameter(p) for p in match.query]}


def _field(field: FieldMatch) -> dict[str, Any]:
    said = {"name": field.name, "invert_match": field.invert}
    return said | ({"present_match": True} if field.present else {"string_match": _text(field)})


def _parameter(parameter: QueryMatch) -> dict[str, Any]:
    said: dict[str, Any] = {"name": parameter.name}
    if parameter.present:
        return said | {"present_match": True}
    return said | {"string_match": _text(parameter)}


def _text(criterion: FieldMatch | QueryMatch) -> dict[str, Any]:
    if criterion.regex:
        return {"safe_regex": {"regex": criterion.regex}}
    kinds = ("exact", "prefix", "suffix")
    return {kind: text for kind in kinds if (text := getattr(criterion, kind, ""))}
