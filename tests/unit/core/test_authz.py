"""Intentions of one destination, in Consul's order of precedence."""

from __future__ import annotations

import pytest

from fleetmesh.core.authz import Authorizer, Rules, Verdict
from fleetmesh.core.request import RequestHead
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention, Permission
from fleetmesh.model.traffic import FieldMatch


def intention(source: str, destination: str, action: Action, precedence: int) -> Intention:
    return Intention(source, destination, action, precedence)


EXACT = intention("web", "api", Action.DENY, 9)
ANY_SOURCE = intention("*", "api", Action.ALLOW, 8)
ANY_DESTINATION = intention("cart", "*", Action.DENY, 6)
ANY = intention("*", "*", Action.DENY, 5)


@pytest.mark.parametrize("default", [True, False])
def test_without_intentions_the_default_decides(default: bool) -> None:
    verdict = Authorizer((), default).decide("web")
    assert (verdict.allowed, verdict.intention) == (default, None)
    assert str(verdict) == f"default policy: {'allow' if default else 'deny'}"


def test_the_first_match_decides() -> None:
    authorizer = Authorizer((EXACT, ANY_SOURCE, ANY_DESTINATION, ANY), False)
    assert authorizer.decide("web").intention is EXACT
    assert authorizer.decide("cart").intention is ANY_SOURCE
    assert authorizer.decide("other").intention is ANY_SOURCE


def test_a_wildcard_destination_counts_before_a_wildcard_source() -> None:
    authorizer = Authorizer((ANY_DESTINATION, ANY), True)
    assert authorizer.decide("cart").intention is ANY_DESTINATION
    assert authorizer.decide("web").intention is ANY
    assert str(authorizer.decide("web")) == "deny * => *"


def test_of_two_for_the_same_source_the_higher_precedence_wins() -> None:
    lower = intention("web", "*", Action.ALLOW, 6)
    assert not Authorizer((EXACT, lower), True).decide("web").allowed


Fields = tuple[tuple[bytes, bytes], ...]


def head(target: bytes = b"/", method: bytes = b"GET", fields: Fields = ()) -> RequestHead:
    request = RequestHead()
    request.on_url(target)
    request.on_header(b"Host", b"api")
    for name, value in fields:
        request.on_header(name, value)
    assert request.judge(method, "1.1", 100) is None
    return request


def by_request(*permissions: Permission, source: str = "web", precedence: int = 9) -> Intention:
    return Intention(source, "api", Action.DENY, precedence, "", permissions)


def judged(permission: Permission, request: RequestHead) -> bool:
    """Whether it decides, with the other side as the default."""
    allows = permission.action is Action.ALLOW
    verdict = Rules(by_request(permission), not allows).settle(request)
    assert not verdict.ambiguous
    return verdict.allowed is allows


def test_the_source_decides_and_then_the_default_policy() -> None:
    """What no permission is for does not fall to an intention of lower precedence."""
    cart = Permission(Action.ALLOW, path_prefix="/cart")
    lower = intention("*", "api", Action.ALLOW, 8)
    authorizer = Authorizer((by_request(cart), lower), False)
    assert authorizer.explain("web", head(b"/cart/1")).allowed
    denied = authorizer.explain("web", head(b"/other"))
    assert str(denied) == "default policy: deny (none of 1 permission web => api matches)"
    assert authorizer.rules("other") is None
    assert authorizer.explain("other", head()).intention is lower
    assert not authorizer.explain("web").allowed


def test_permissions_of_any_source_judge_whoever_has_no_intention() -> None:
    rules = by_request(Permission(Action.DENY, path_exact="/x"), source="*", precedence=8)
    authorizer = Authorizer((intention("cart", "api", Action.ALLOW, 9), rules), True)
    assert authorizer.rules("cart") is None
    assert not authorizer.explain("web", head(b"/x")).allowed
    assert authorizer.explain("web", head(b"/y")).allowed
    assert authorizer.explain("cart", head(b"/x")).allowed


def test_the_first_permission_decides() -> None:
    deny = Permission(Action.DENY, path_exact="/a")
    allow = Permission(Action.ALLOW, path_prefix="/a", methods=("get",))
    authorizer = Authorizer((by_request(deny, allow),), False)
    verdict = authorizer.explain("web", head(b"/a"))
    assert str(verdict) == "2 permissions web => api (permission 1: deny)"
    assert authorizer.explain("web", head(b"/ab")).rule == "permission 2: allow"
    assert not authorizer.explain("web", head(b"/ab", b"POST")).allowed


def test_the_request_that_is_judged_is_the_one_that_goes_on() -> None:
    request = head(b"/x/../%61dmin?q=%2f")
    assert judged(Permission(Action.DENY, path_prefix="/admin"), request)
    assert request.rebuild(b"", b"").startswith(b"GET /admin?q=%2f HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("permission", "target"),
    [
        (Permission(Action.DENY, path_exact="/a:b"), b"/a%3Ab"),
        (Permission(Action.DENY, path_prefix="/a b"), b"/a%20bc"),
        (Permission(Action.DENY, path_exact="/a%20b"), b"/a%20b"),
        (Permission(Action.ALLOW, path_exact="/a%20b"), b"/a%20b"),
        (Permission(Action.DENY, path_regex="/a:b"), b"/a%3Ab"),
        (Permission(Action.DENY, path_regex="/a%3Ab"), b"/a%3ab"),
        (Permission(Action.ALLOW, path_regex="/[a-z%:3A]*"), b"/a%3Ab"),
    ],
)
def test_escapes_hide_nothing(permission: Permission, target: bytes) -> None:
    assert judged(permission, head(target))


def test_a_regex_allows_only_what_it_matches_in_both_readings() -> None:
    assert not judged(Permission(Action.ALLOW, path_regex="/[a-z%3A]*"), head(b"/a%3Ab"))
    assert not judged(Permission(Action.ALLOW, path_regex="/[a-z:]*"), head(b"/a%3Ab"))
    assert not judged(Permission(Action.DENY, path_regex="/adm"), head(b"/admin"))


ROLE, OTHER = (b"X-Role", b"admin"), (b"x-role", b"guest")
IS_ADMIN = FieldMatch("x-role", exact="admin")
IS_NOT = FieldMatch("X-Role", exact="admin", invert=True)


@pytest.mark.parametrize(
    ("criterion", "lines", "allowing", "denying"),
    [
        (IS_ADMIN, (), False, False),
        (IS_ADMIN, (ROLE,), True, True),
        (IS_ADMIN, (OTHER,), False, False),
        (IS_ADMIN, (ROLE, OTHER), False, True),
        (IS_ADMIN, (OTHER, ROLE), False, True),
        (IS_NOT, (), False, False),
        (IS_NOT, (ROLE,), False, False),
        (IS_NOT, (OTHER,), True, True),
        (IS_NOT, (ROLE, OTHER), False, True),
        (IS_NOT, (OTHER, OTHER), True, True),
        (FieldMatch("x-role", exact="admin, guest"), (ROLE, OTHER), False, True),
        (FieldMatch("x-role", exact="admin, guest", invert=True), (ROLE, OTHER), False, True),
        (FieldMatch("x-role", present=True), (ROLE, OTHER), True, True),
        (FieldMatch("x-role", present=True, invert=True), (), True, True),
        (FieldMatch("x-role", present=True, invert=True), (ROLE,), False, False),
        (FieldMatch("x-role", regex=".*"), ((b"x-role", b"\xff"),), False, True),
        (
            FieldMatch("x-role", prefix="caf\u00e9"),
            ((b"x-role", "caf\u00e9".encode()),),
            True,
            True,
        ),
    ],
)
def test_of_a_repeated_field_the_stricter_side_wins(
    criterion: FieldMatch, lines: Fields, allowing: bool, denying: bool
) -> None:
    for action, expected in ((Action.ALLOW, allowing), (Action.DENY, denying)):
        assert judged(Permission(action, headers=(criterion,)), head(fields=lines)) is expected


@pytest.mark.parametrize("name", ["host", ":authority", "content-length", "upgrade", "te"])
def test_fields_that_the_mesh_writes_itself_are_seen(name: str) -> None:
    fields = ((b"Content-Length", b"0"), (b"Connection", b"upgrade, te"))
    if name == "te":
        fields = (*fields, (b"TE", b"trailers"))
    else:
        fields = (*fields, (b"Upgrade", b"websocket"))
    present = Permission(Action.DENY, headers=(FieldMatch(name, present=True),))
    assert judged(present, head(fields=fields))


def test_ambiguous_requests_are_not_judged() -> None:
    rules = Rules(by_request(Permission(Action.ALLOW, headers=(IS_NOT,))), True)
    path = rules.settle(head(b"/a%2fb"))
    assert (path.allowed, path.ambiguous) == (False, "path")
    alike = rules.settle(head(fields=(OTHER, (b"X_Role", b"admin"))))
    assert (alike.allowed, alike.ambiguous) == (False, "x_role")
    assert not rules.settle(head(fields=((b"x_other", b"1"), (b"x-rule", b"1")))).ambiguous


def test_a_field_with_an_underscore_has_lookalikes_too() -> None:
    criterion = FieldMatch("x_role", exact="admin")
    rules = Rules(by_request(Permission(Action.ALLOW, headers=(criterion,))), False)
    assert rules.settle(head(fields=((b"x-role", b"admin"),))).ambiguous == "x-role"
    assert rules.settle(head(fields=((b"x_role", b"admin"),))).allowed


def test_verdict_in_words() -> None:
    assert str(Verdict(True)) == "default policy: allow"
    one = by_request(Permission(Action.ALLOW))
    assert str(Authorizer((one,), True).decide("web")) == (
        "1 permission web => api (by request: not for a connection)"
    )
