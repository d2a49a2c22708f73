"""An application of few manners: what it does is in the path that it is asked for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from urllib.parse import parse_qs, urlsplit

Fields = list[tuple[str, str]]


class Scripted:
    """`connections` counts what was accepted, `aborted` what ended before its answer did.

    - `/any`: 200 with JSON of method, target, fields, body's length and digest
    - `/chunked`: two chunks with a trailer; `/until-close`: content until the end
    - `/status?code=`: that status, no content; `/early`: 413 without reading the body
    - `/reject`: 413 without reading the body, then a reset
    - `/interim`: 103, then 200; `/drip?n=&gap=`: n chunks, one every `gap` seconds
    - `/big?size=`: so many bytes; `/upgrade`: 101, then echo; `/never`: nothing, ever
    - `/last`: answers, then drops the connection at the next request without a word
    """

    def __init__(self) -> None:
        self.connections = 0
        self.aborted = 0
        self._abort = asyncio.Event()
        self.served = 0
        self.written = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        last = False
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if last:
                    return
                line, *lines = head[:-4].split("\r\n")
                method, target, _ = line.split(" ")
                fields = [
                    (key, value.strip()) for key, _, value in (x.partition(":") for x in lines)
                ]
                url = urlsplit(target)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                last = url.path == "/last"
                action = getattr(self, "do_" + url.path.strip("/").replace("-", "_"), self.do_any)
                self.served += 1
                if not await action(reader, writer, method, target, fields, query):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.aborted += 1
            self._abort.set()
        finally:
            writer.close()

    async def abort_after(self, count: int) -> None:
        """Wait until more than `count` connections were aborted; raises TimeoutError."""
        async with asyncio.timeout(5):
            while self.aborted <= count:
                self._abort.clear()
                await self._abort.wait()

    async def body(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fields: Fields
    ) -> tuple[int, str]:
        """The length and the digest of the request's body."""
        by_name = {key.lower(): value for key, value in fields}
        digest = hashlib.sha256()
        total = 0
        if by_name.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "content-length" in by_name:
            left = int(by_name["content-length"])
            while left:
                data = await reader.read(min(left, 65536))
                if not data:
                    raise ConnectionError
                digest.update(data)
                total += len(data)
                left -= len(data)
        elif "transfer-encoding" in by_name:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                data = await reader.readexactly(size + 2)
                digest.update(data[:-2])
                total += size
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
        return total, digest.hexdigest()

    async def do_any(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        length, digest = await self.body(reader, writer, fields)
        said = {
            "method": method,
            "target": target,
            "fields": fields,
            "length": length,
            "sha256": digest,
        }
        content = json.dumps(said).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nX-App: 1\r\n\r\n"
        writer.write(head.encode() + (b"" if method == "HEAD" else content))
        return True

    do_last = do_any

    async def do_chunked(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n"
            b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n"
            b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\nContent-Length: 9\r\n\r\n"
        )
        return True

    async def do_until_close(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello world")
        return False

    async def do_status(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        await self.body(reader, writer, fields)
        code = int(query["code"])
        length = "" if code in (204, 304) else "Content-Length: 0\r\n"
        writer.write(f"HTTP/1.1 {code} Whatever\r\n{length}\r\n".encode())
        return True

    async def do_early(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.3)
        return True

    async def do_reject(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        # The kernel still holds a part of the body: closing now is a reset.
        writer.transport.abort()
        return False

    async def do_interim(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    async def do_drip(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(int(query["n"])):
            await asyncio.sleep(float(query["gap"]))
            writer.write(b"2\r\n%02d\r\n" % number)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True

    async def do_big(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        size = int(query["size"])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        self.written = 0
        piece = bytes(range(256)) * 256
        while self.written < size:
            writer.write(piece[: size - self.written])
            await writer.drain()
            self.written += len(piece)
        return True

    async def do_upgrade(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        by_name = {key.lower(): value for key, value in fields}
        if "upgrade" not in by_name:
            return bool(await self.do_any(reader, writer, method, target, fields, query))
        key = by_name.get("sec-websocket-key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            f"Upgrade: {by_name['upgrade']}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        return False

    async def do_never(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        await asyncio.sleep(3)
        return False
