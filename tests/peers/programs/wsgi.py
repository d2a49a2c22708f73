"""The resources of `tests.peers.servers` as a WSGI application, for gunicorn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from content import LARGE, SMALL

ETAG = '"small-1"'
Start = Callable[[str, list[tuple[str, str]]], Any]


def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    def answer(
        body: bytes, status: str = "200 OK", *fields: tuple[str, str], sized: bool = True
    ) -> list[bytes]:
        length = [("Content-Length", str(len(body)))] if sized else []
        start_response(status, [*fields, *length])
        return [body] if environ["REQUEST_METHOD"] != "HEAD" else []

    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case (("GET" | "HEAD"), "/small"):
            if environ.get("HTTP_IF_NONE_MATCH") == ETAG:
                return answer(b"", "304 Not Modified", ("ETag", ETAG), sized=False)
            return answer(SMALL, "200 OK", ("ETag", ETAG))
        case (("GET" | "HEAD"), "/large"):
            return answer(LARGE)
        case (("GET" | "HEAD"), "/chunked"):
            answer(b"", sized=False)
            return (LARGE[at : at + 50_000] for at in range(0, len(LARGE), 50_000))
        case "POST", "/echo":
            return answer(environ["wsgi.input"].read())
        case "GET", "/nothing":
            return answer(b"", "204 No Content", sized=False)
        case "GET", "/old":
            return answer(b"", "302 Found", ("Location", "/small"))
        case "GET", "/caller":
            return answer(environ["HTTP_X_FORWARDED_CLIENT_CERT"].encode())
        case "GET", "/port":
            return answer(environ["REMOTE_PORT"].encode())
        case "GET", "/events":
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return events()
        case _:
            return answer(b"", "404 Not Found")


def events() -> Iterator[bytes]:
    """Three events, a tenth of a second apart; each says when it was sent."""
    for _ in range(3):
        time.sleep(0.1)
        yield b"data: %d\n\n" % time.monotonic_ns()
