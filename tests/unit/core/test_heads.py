"""Heads: judged and rebuilt, requests and responses."""

from __future__ import annotations

import pytest

from fleetmesh.core.framing import Body, content_length, spellings, token_list
from fleetmesh.core.request import RequestHead
from fleetmesh.core.response import ResponseHead
from fleetmesh.model.refusal import Refusal

Lines = tuple[tuple[bytes, bytes], ...]


def request(
    *lines: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = b"/", version: str = "1.1"
) -> tuple[RequestHead, Refusal | None]:
    head = RequestHead()
    head.on_url(target)
    for name, value in lines:
        head.on_header(name, value)
    return head, head.judge(method, version, 100)


def response(
    *lines: tuple[bytes, bytes], status: int = 200, version: str = "1.1", method: bytes = b"GET"
) -> tuple[ResponseHead, bool]:
    head = ResponseHead()
    head.on_status(b"OK")
    for name, value in lines:
        head.on_header(name, value)
    return head, head.judge(status, version, method)


HOST = (b"Host", b"a")


def test_a_field_is_found_as_it_is_forwarded() -> None:
    """By its lower-case name; lines are joined; what concerns one hop only is not there."""
    head, _ = request(
        HOST,
        (b"X-A", b"1, 2"),
        (b"x-ab", b"4"),
        (b"Connection", b"x-hop"),
        (b"X-Hop", b"5"),
        (b"x-a", b"  3:3\t"),
        (b"X-Empty", b""),
        (b"Content-Length", b"007"),
        (b"X-Forwarded-Client-Cert", b"URI=spiffe://evil"),
    )
    found = {name: head.field(name) for name in (b"host", b"x-a", b"x-ab", b"x-empty", b"x")}
    assert found == {
        b"host": b"a",
        b"x-a": b"1, 2, 3:3",
        b"x-ab": b"4",
        b"x-empty": b"",
        b"x": None,
    }
    assert head.field(b"content-length") == b"7"
    for name in (b"connection", b"x-hop", b"x-forwarded-client-cert", b"transfer-encoding"):
        assert head.field(name) is None


def test_a_request_is_rebuilt_with_its_fields_in_order() -> None:
    head, refusal = request(
        (b"X-B", b"1"), HOST, (b"x-a", b"2"), (b"Content-Length", b"007"), (b"X-B", b"3"),
        method=b"POST", target=b"/p?q",
    )  # fmt: skip
    assert refusal is None
    assert head.rebuild(b"", b"Added: 1\r\n") == (
        b"POST /p?q HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\n"
        b"Content-Length: 7\r\nAdded: 1\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("target", "rebuilt", "host"),
    [
        (b"/", b"/", b"a"),
        (b"//x", b"//x", b"a"),
        (b"http://b", b"/", b"b"),
        (b"HTTPS://b:1/x?y", b"/x?y", b"b:1"),
        (b"http://[::1]:8080/foo", b"/foo", b"[::1]:8080"),
        (b"http://user:pass@b/x", b"/x", b"b"),
        (b"http://b?y", b"/?y", b"b"),
    ],
)
def test_targets(target: bytes, rebuilt: bytes, host: bytes) -> None:
    head, refusal = request(HOST, target=target)
    assert (refusal, head.target, head.host) == (None, rebuilt, host)


@pytest.mark.parametrize(
    "target",
    [
        b"x", b"*", b"a:1", b"ftp://a/", b"http://", b"/a#b", b"http://b/x#y", b"http:///x",
        b"http://a@b@c/", b"http://user@/", b"http://:80/", b"http://b:x/", b"http://a%/",
    ],
)  # fmt: skip
def test_targets_that_are_none(target: bytes) -> None:
    assert request(HOST, target=target)[1] is Refusal.MALFORMED


@pytest.mark.parametrize("host", [b"a b", b"a:x", b"%", b"a%2", b"[::1", b"a/b", b"a@b"])
def test_hosts_that_are_none(host: bytes) -> None:
    """Also beside a target that has an authority of its own."""
    for target in (b"/", b"http://b/"):
        assert request((b"Host", host), target=target)[1] is Refusal.MALFORMED


def test_options_of_a_whole_server_stay_that() -> None:
    """RFC 9112 section 3.2.4: a URI without a path stands for `*`."""
    for target, forwarded in ((b"http://b", b"*"), (b"http://b/", b"/"), (b"http://b?x", b"/?x")):
        head, refusal = request(HOST, method=b"OPTIONS", target=target)
        assert (refusal, head.target) == (None, forwarded)


def test_an_old_request_may_lack_its_host_but_not_chunk() -> None:
    head, refusal = request(version="1.0")
    assert (refusal, head.keep_alive) == (None, False)
    assert b"Host: default\r\n" in head.rebuild(b"default", b"")
    assert request((b"Transfer-Encoding", b"chunked"), version="1.0")[1] is Refusal.MALFORMED
    assert request((b"Connection", b"keep-alive"), version="1.0")[0].keep_alive


@pytest.mark.parametrize("version", ["0.9", "2.0", "1.2"])
def test_other_versions(version: str) -> None:
    assert request(HOST, version=version)[1] is Refusal.MALFORMED
    assert not response(version=version)[1]


def test_count_and_method() -> None:
    assert request(HOST, *[(b"X", b"y")] * 100)[1] is Refusal.HEAD_TOO_LARGE
    assert request(HOST, method=b"CONNECT", target=b"a:1")[1] is Refusal.CONNECT_METHOD


def test_an_upgrade_needs_a_request_without_content() -> None:
    offer = (HOST, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    assert request(*offer)[0].upgrade == b"websocket"
    assert request(*offer, (b"Content-Length", b"3"))[0].upgrade == b""
    assert request(*offer, method=b"POST")[0].upgrade == b""
    assert request(*offer, version="1.0")[0].upgrade == b""
    assert request(HOST, (b"Upgrade", b"websocket"))[0].upgrade == b""
    for name in (b"h2c", b"HTTP/2.0", b"websocket, h2c", b'"x"'):
        assert request(HOST, (b"Connection", b"upgrade"), (b"Upgrade", name))[0].upgrade == b""


@pytest.mark.parametrize(
    ("lines", "status", "method", "body", "keep_alive"),
    [
        (((b"Content-Length", b"3"),), 200, b"GET", Body.LENGTH, True),
        (((b"Content-Length", b"0"),), 200, b"GET", Body.NONE, True),
        (((b"Transfer-Encoding", b"chunked"),), 200, b"GET", Body.CHUNKED, True),
        ((), 200, b"GET", Body.CLOSE, False),
        ((), 200, b"HEAD", Body.NONE, True),
        (((b"Content-Length", b"3"),), 200, b"HEAD", Body.NONE, True),
        (((b"Content-Length", b"3"),), 304, b"GET", Body.NONE, True),
        ((), 204, b"GET", Body.NONE, True),
        (((b"Content-Length", b"3"),), 204, b"GET", Body.NONE, False),
        (((b"Connection", b"close"), (b"Content-Length", b"3")), 200, b"GET", Body.LENGTH, False),
    ],
)
def test_how_a_response_ends(
    lines: Lines, status: int, method: bytes, body: Body, keep_alive: bool
) -> None:
    head, legal = response(*lines, status=status, method=method)
    assert (legal, head.body, head.keep_alive) == (True, body, keep_alive)


@pytest.mark.parametrize(
    "lines",
    [
        ((b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")),
        ((b"Content-Length", b"3"), (b"Content-Length", b"4")),
        ((b"Content-Length", b"x"),),
        ((b"Transfer-Encoding", b"gzip"),),
        ((b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")),
        ((b"Connection", b"a b"),),
    ],
)
def test_responses_that_are_none(lines: Lines) -> None:
    assert not response(*lines)[1]


def test_a_response_is_rebuilt_for_its_client() -> None:
    head, _ = response((b"Date", b"x"), (b"Keep-Alive", b"1"), (b"Transfer-Encoding", b"chunked"))
    assert head.rebuild(True, True, False) == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert head.rebuild(False, False, False) == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n"
    )


def test_field_values() -> None:
    assert content_length(b" 42\t") == 42
    for wrong in (b"", b"+1", b"-1", b"1 2", b"0x1", b"1,1", b"1_0", b"\xef\xbc\x91", b"9" * 19):
        assert content_length(wrong) is None
    assert token_list(b"Close, ,keep-alive") == {b"close", b"keep-alive"}
    assert token_list(b"") == frozenset()
    assert token_list(b"a b") is None
    assert len(spellings(b"x-forwarded-client-cert")) == 8
