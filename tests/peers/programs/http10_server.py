"""Some of the resources of `tests.peers.servers` in HTTP/1.0, on the standard library's server:
http10_server.py PORT.

`/chunked` ends with the connection; it is never chunked here.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from content import LARGE, SMALL


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({"/small": SMALL, "/large": LARGE, "/chunked": LARGE}[self.path])

    do_HEAD = do_GET  # noqa: N815 - the names that the library looks for

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        if self.path != "/chunked":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
