"""Permissions as Consul tells them; what is not understood denies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetmesh.core.authz import Rules
from fleetmesh.core.request import RequestHead
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention, Permission
from fleetmesh.model.traffic import FieldMatch
from fleetmesh.plan.answers import IntentionEntry
from fleetmesh.plan.intentions import not_for_tcp, readable


def entry(*permissions: Any, **more: Any) -> IntentionEntry:
    """As it came over the wire."""
    body = {"SourceName": "web", "DestinationName": "api", "Precedence": 9, **more}
    return msgspec.convert({**body, "Permissions": list(permissions)}, IntentionEntry)


def one(permission: Any) -> Permission:
    (intention,), warnings = readable((entry(permission),))
    assert warnings == ()
    (read,) = intention.permissions
    return read


def test_every_criterion_is_read() -> None:
    read = one(
        {
            "Action": "deny",
            "HTTP": {
                "PathRegex": "/a.*",
                "Methods": ["GET"],
                "Header": [
                    {"Name": "a", "Present": True},
                    {"Name": "b", "Exact": "x", "Invert": True},
                    {"Name": "c", "Prefix": "x"},
                    {"Name": "d", "Suffix": "x"},
                    {"Name": "e", "Regex": "x"},
                ],
            },
        }
    )
    assert read == Permission(
        Action.DENY,
        path_regex="/a.*",
        methods=("GET",),
        headers=(
            FieldMatch("a", present=True),
            FieldMatch("b", exact="x", invert=True),
            FieldMatch("c", prefix="x"),
            FieldMatch("d", suffix="x"),
            FieldMatch("e", regex="x"),
        ),
    )
    assert one({"Action": "allow", "HTTP": {"PathExact": "/a"}}).path_exact == "/a"
    assert one({"Action": "allow", "HTTP": {"PathPrefix": "/a"}}).path_prefix == "/a"
    assert one({"Action": "allow", "HTTP": None}) == Permission(Action.ALLOW)


@pytest.mark.parametrize(
    ("header", "value", "matches"),
    [
        ({"Contains": "a.b"}, b"\x01xa.by", True),
        ({"Contains": "a.b"}, b"xaxby", False),
        ({"Contains": "A.b", "IgnoreCase": True}, b"xa.By", True),
        ({"Exact": "Ab", "IgnoreCase": True}, b"aB", True),
        ({"Exact": "Ab", "IgnoreCase": True}, b"aBc", False),
        ({"Prefix": "Ab", "IgnoreCase": True}, b"aBc", True),
        ({"Suffix": "Bc", "IgnoreCase": True}, b"abC", True),
        ({"Regex": "a|b", "IgnoreCase": True}, b"B", True),
        ({"Contains": "a", "Invert": True}, b"b", True),
        ({"Contains": "a", "Invert": True}, b"bab", False),
    ],
)
def test_text_anywhere_and_in_either_case(
    header: dict[str, Any], value: bytes, matches: bool
) -> None:
    read = one({"Action": "allow", "HTTP": {"Header": [{"Name": "x", **header}]}})
    request = RequestHead()
    request.on_url(b"/")
    request.on_header(b"X", value)
    rules = Rules(Intention("web", "api", Action.DENY, 9, "", (read,)), False)
    assert rules.settle(request).allowed is matches


@pytest.mark.parametrize(
    ("permission", "place"),
    [
        ({"Action": "allow", "JWT": {"Providers": [{"Name": "okta"}]}}, "[1]"),
        ({"Action": "allow", "HTTP": {"PathExact": "/a", "Body": "x"}}, "[1].HTTP"),
        ({"Action": "allow", "When": "noon"}, "[1]"),
        ({"Action": "audit"}, "[1].Action"),
        ({"HTTP": {}}, "[1]"),
        ({"Action": "allow", "HTTP": {"PathExact": "/a", "PathPrefix": "/b"}}, "[1]"),
        ({"Action": "allow", "HTTP": {"PathPrefix": "a"}}, "[1].path_prefix"),
        ({"Action": "allow", "HTTP": {"PathRegex": "("}}, "[1].path_regex"),
        ({"Action": "allow", "HTTP": {"Header": [{"Name": "x"}]}}, "[1].headers[0]"),
        ({"Action": "deny", "HTTP": {"Header": [{"Name": ":path", "Present": True}]}}, "[1]"),
        (
            {
                "Action": "deny",
                "HTTP": {"Header": [{"Name": "x", "Present": True, "Contains": "a"}]},
            },
            "[1].headers[0]",
        ),
        (
            {"Action": "deny", "HTTP": {"Header": [{"Name": "x", "Exact": "b", "Contains": "a"}]}},
            "[1].headers[0]",
        ),
        (
            {"Action": "deny", "HTTP": {"Header": [{"Name": "x", "Range": [1]}]}},
            "[1].HTTP.Header[0]",
        ),
        ("allow", "[1]"),
    ],
)
def test_what_is_not_understood_denies_the_whole_source(permission: Any, place: str) -> None:
    (intention,), warnings = readable((entry({"Action": "allow"}, permission),))
    assert (intention.action, intention.permissions) == (Action.DENY, ())
    assert warnings
    assert warnings[0].path.startswith(
        f"service-intentions/api: Sources[web].Permissions{place}"
    ), warnings
    assert "the whole source is denied" in warnings[0].rule


@pytest.mark.parametrize(
    "more",
    [
        {"Action": "allow", "JWT": {"Providers": [{"Name": "okta"}]}},
        {"Action": "allow", "Permissions": [{"Action": "allow"}]},
        {"Permissions": {"Action": "allow"}},
    ],
)
def test_so_does_a_whole_intention(more: dict[str, Any]) -> None:
    body = {"SourceName": "web", "DestinationName": "api", **more}
    good = entry(SourceName="cart", Action="allow")
    intentions, warnings = readable((msgspec.convert(body, IntentionEntry), good))
    assert [str(one) for one in intentions] == ["deny web => api", "allow cart => api"]
    assert len(warnings) == 1


def test_another_partition_does_not_speak_of_ours() -> None:
    assert readable((entry(Action="allow", SourcePartition="other"),)) == ((), ())


def test_a_tcp_service_has_no_requests() -> None:
    (intention,), _ = readable((entry({"Action": "allow"}),))
    (problem,) = not_for_tcp("api", (intention,))
    assert problem.path == "service-intentions/api: Sources[web].Permissions"
    assert "tcp" in problem.rule
