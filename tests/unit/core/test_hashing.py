"""What of a request decides where it goes, and the cookie that will decide it the next time."""

from __future__ import annotations

import pytest

from fleetmesh.balance.hashing import digest
from fleetmesh.core.hashing import Hashing
from fleetmesh.core.request import RequestHead
from fleetmesh.model.traffic import HashPolicy

DRAWN = 0x1234


def asking(target: bytes = b"/", *fields: tuple[bytes, bytes]) -> RequestHead:
    request = RequestHead()
    request.on_url(target)
    for name, value in ((b"Host", b"api"), *fields):
        request.on_header(name, value)
    assert request.judge(b"GET", "1.1", 100) is None
    return request


def number(policy: HashPolicy, request: RequestHead | None, address: bytes = b"10.0.0.9") -> int:
    return Hashing([policy]).number(request, address, DRAWN)


@pytest.mark.parametrize(
    ("policy", "request_", "value"),
    [
        (HashPolicy(header="X-User"), asking(b"/", (b"x-user", b"7")), b"7"),
        (HashPolicy(header=":authority"), asking(), b"api"),
        (HashPolicy(query="u"), asking(b"/a?x=1&u=7&u=8"), b"7"),
        (HashPolicy(query="u"), asking(b"/a?u"), b""),
        (HashPolicy(cookie="u"), asking(b"/", (b"Cookie", b"a=b; u=7; uu=8")), b"7"),
        (HashPolicy(cookie="u"), asking(b"/", (b"Cookie", b'u="7"')), b"7"),
        (HashPolicy(cookie="u"), asking(b"/", (b"Cookie", b"a=b"), (b"Cookie", b"u=7")), b"7"),
        (HashPolicy(source_address=True), asking(), b"10.0.0.9"),
        (HashPolicy(source_address=True), None, b"10.0.0.9"),
    ],
)
def test_what_is_hashed(policy: HashPolicy, request_: RequestHead | None, value: bytes) -> None:
    assert number(policy, request_) == digest(value)


@pytest.mark.parametrize(
    ("policy", "request_"),
    [
        (HashPolicy(header="x-user"), asking()),
        (HashPolicy(query="u"), asking(b"/u=7?v=1")),
        (HashPolicy(cookie="u"), asking(b"/", (b"Cookie", b"v=7"))),
        (HashPolicy(header="x-user"), None),
    ],
)
def test_chance_decides_where_nothing_is_found(
    policy: HashPolicy, request_: RequestHead | None
) -> None:
    assert number(policy, request_) == DRAWN
    assert Hashing([]).number(request_, b"", DRAWN) == DRAWN


def test_several_are_put_together_up_to_a_terminal_one() -> None:
    one, two = HashPolicy(header="a"), HashPolicy(header="b")
    last = HashPolicy(header="a", terminal=True)
    both, second = asking(b"/", (b"a", b"1"), (b"b", b"2")), asking(b"/", (b"b", b"2"))
    assert Hashing([last, two]).number(both, b"", DRAWN) == digest(b"1")
    assert Hashing([last, two]).number(second, b"", DRAWN) == digest(b"2")
    together = Hashing([one, two]).number(both, b"", DRAWN)
    assert together == Hashing([one, two]).number(both, b"", DRAWN + 1)
    assert together not in (digest(b"1"), digest(b"2"), DRAWN)
    assert together != Hashing([two, one]).number(both, b"", DRAWN)
    assert 0 <= together < 2**64


@pytest.mark.parametrize(
    ("ttl", "path", "rest"),
    [
        (300.0, "", b"; Max-Age=300; HttpOnly"),
        (0.0, "/a", b"; Path=/a; HttpOnly"),
        (0.2, "", b"; Max-Age=1; HttpOnly"),
    ],
)
def test_a_cookie_is_given_that_leads_to_the_same_place(ttl: float, path: str, rest: bytes) -> None:
    hashing = Hashing([HashPolicy(cookie="u", cookie_ttl=ttl, cookie_path=path)])
    first = hashing.number(asking(), b"", DRAWN)
    assert hashing.set_cookie == b'Set-Cookie: u="0000000000001234"' + rest + b"\r\n"
    value = hashing.set_cookie.partition(b": ")[2].partition(b";")[0]
    assert hashing.number(asking(b"/", (b"Cookie", value)), b"", 99) == first
    assert hashing.set_cookie == b""


def test_without_a_time_to_live_no_cookie_is_given() -> None:
    hashing = Hashing([HashPolicy(cookie="u")])
    hashing.number(asking(), b"", DRAWN)
    assert hashing.set_cookie == b""
