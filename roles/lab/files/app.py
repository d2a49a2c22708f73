"""An application of the lab: it says who it is and what it received.

Every method and path answers JSON: instance, service, method, path, query, headers (an object;
repeated fields joined by ", ") and body_bytes. Query parameters change the answer:

delay=SECONDS              wait first
status=CODE                answer with this status
size=BYTES                 pad the answer by so many bytes
stream=N                   N chunks instead of JSON, interval=SECONDS apart, size=BYTES each
echo                       the request's body back, as it arrives
call=URL                   ask URL first; its status and instance stand in the answer as "called",
                           and one that does not answer 200 makes the answer 502

A parameter that is no number is answered with 400. A WebSocket on any path, and TCP on
port + 1000, echo. It knows nothing of a mesh. Files make it faulty while they exist:

/run/SERVICE/sick          /health answers 503; everything else keeps answering
/run/SERVICE/slow          everything but /health waits for the number of seconds in it
/run/SERVICE/broken        everything but /health answers 500 at once
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import WSMsgType, web

_CHUNK = 64


class App:
    """One instance of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._instance = f"{socket.gethostname()}/{service}"
        self._sick = Path(f"/run/{service}/sick")
        self._slow = Path(f"/run/{service}/slow")
        self._broken = Path(f"/run/{service}/broken")
        self._client: aiohttp.ClientSession | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _echo_websocket(request)
        try:
            return await self._answer(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        query = request.query
        if request.path != "/health":
            if self._broken.exists():
                return web.json_response(
                    {"instance": self._instance, "error": "broken"}, status=500
                )
            if self._slow.exists():
                await asyncio.sleep(float(self._slow.read_text()))
        if "delay" in query:
            await asyncio.sleep(float(query["delay"]))
        if "echo" in query:
            return await _echo_body(request)
        received = 0
        async for chunk in request.content.iter_any():
            received += len(chunk)
        if "stream" in query:
            return await _stream(request)
        status = int(query.get("status", "200"))
        if request.path == "/health" and self._sick.exists():
            status = 503
        called = await self._call(query["call"]) if "call" in query else {}
        if called and called["status"] != 200:
            status = 502
        return self._describe(request, received, status, called)

    async def _call(self, url: str) -> dict[str, Any]:
        """Ask `url` over kept connections, once; `status` is 0 when there is no answer."""
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=20)
            )
        try:
            async with self._client.get(url) as response:
                answer = await response.json()
                return {"status": response.status, "instance": answer["instance"]}
        except (TimeoutError, OSError, ValueError, KeyError, aiohttp.ClientError) as error:
            return {"status": 0, "error": f"{type(error).__name__}: {error}"}

    def _describe(
        self, request: web.BaseRequest, received: int, status: int, called: dict[str, Any]
    ) -> web.Response:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        answer: dict[str, Any] = {
            "instance": self._instance,
            "service": self._service,
            "method": request.method,
            "path": request.path,
            "query": request.query_string,
            "headers": headers,
            "body_bytes": received,
        }
        if called:
            answer["called"] = called
        padding = int(request.query.get("size", "0"))
        if padding:
            answer["padding"] = "x" * padding
        return web.json_response(answer, status=status)


async def _stream(request: web.BaseRequest) -> web.StreamResponse:
    count = int(request.query["stream"])
    interval = float(request.query.get("interval", "0"))
    size = int(request.query.get("size", str(_CHUNK)))
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for number in range(count):
        if number and interval:
            await asyncio.sleep(interval)
        await response.write(f"{number}\n".encode().rjust(size, b"."))
    await response.write_eof()
    return response


async def _echo_body(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


async def _echo_websocket(request: web.BaseRequest) -> web.WebSocketResponse:
    socket_ = web.WebSocketResponse()
    await socket_.prepare(request)
    async for message in socket_:
        if message.type is WSMsgType.TEXT:
            await socket_.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket_.send_bytes(message.data)
    return socket_


async def _echo_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(service: str, port: int) -> None:
    """Serve HTTP on `port` and the TCP echo on `port` + 1000, on both families, for ever."""
    server = web.Server(App(service).handle, access_log=None)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, None, port, backlog=1024).start()
    echo = await asyncio.start_server(_echo_tcp, None, port + 1000)
    async with echo:
        await echo.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    uvloop.install()
    asyncio.run(serve(arguments.service, arguments.port))


if __name__ == "__main__":
    main()
