"""An application of the lab: it says who it is and what it received.

Every method and path answers JSON: instance, service, method, path, query, headers (an object;
repeated fields joined by ", ") and body_bytes. Query parameters change the answer:

delay=SECONDS              wait first
status=CODE                answer with this status
size=BYTES                 pad the answer by so many bytes
stream=N                   N chunks instead of JSON, interval=SECONDS apart, size=BYTES each
echo                       the request's body back, as it arrives

A parameter that is no number is answered with 400. A WebSocket on any path, and TCP on
port + 1000, echo. /health answers 503 while the file /run/SERVICE/sick exists; everything else
keeps answering. It knows nothing of a mesh.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from pathlib import Path

import uvloop
from aiohttp import WSMsgType, web

_CHUNK = 64


class App:
    """One instance of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._instance = f"{socket.gethostname()}/{service}"
        self._sick = Path(f"/run/{service}/sick")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _echo_websocket(request)
        try:
            return await self._answer(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        query = request.query
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
        return self._describe(request, received, status)

    def _describe(self, request: web.BaseRequest, received: int, status: int) -> web.Response:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        answer = {
            "instance": self._instance,
            "service": self._service,
            "method": request.method,
            "path": request.path,
            "query": request.query_string,
            "headers": headers,
            "body_bytes": received,
        }
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
