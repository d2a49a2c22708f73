"""An instance for the comparison beside Envoy: `tests.chaos.instance PORT NAME PKI FAULT`.

HTTP/1.1 over mutual TLS; it says its name. The file FAULT makes it faulty: `slow SECONDS` or
`broken`, until the file is gone.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import uvloop


class Serving(asyncio.Protocol):
    """A connection of requests without bodies, answered in order."""

    def __init__(self, name: str, fault: Path) -> None:
        self._body = f'{{"instance": "{name}/api"}}'.encode()
        self._fault = fault
        self._heard = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        while (end := self._heard.find(b"\r\n\r\n")) >= 0:
            self._heard = self._heard[end + 4 :]
            self._answer()

    def _answer(self) -> None:
        try:
            fault = self._fault.read_text().split()
        except FileNotFoundError:
            fault = []
        status = b"500 Internal Server Error" if fault == ["broken"] else b"200 OK"
        answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (
            status,
            len(self._body),
            self._body,
        )
        if fault[:1] == ["slow"]:
            asyncio.get_running_loop().call_later(float(fault[1]), self._say, answer)
        else:
            self._say(answer)

    def _say(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve(port: int, name: str, pki: Path, fault: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "api.pem", pki / "api.key")
    context.load_verify_locations(pki / "root.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.get_running_loop().create_server(
        lambda: Serving(name, fault), "127.0.0.1", port, ssl=context, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
