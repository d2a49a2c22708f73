"""Take what fleetmesh registered with the Consul agent of this host out again.

Standard input: {"address" (http://, https:// or unix://), "token", "ca_file", "cert_file",
"key_file" (empty where there is none), "check" (change nothing)}. Standard output: {"found":
[service id…], "left": [those that are there still]}. Exit 1 with a sentence where Consul does not
answer.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import urllib.parse
from typing import Any

TIMEOUT = 15
UNIX = "unix://"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def connection(asked: dict[str, Any]) -> http.client.HTTPConnection:
    address = asked["address"]
    if address.startswith(UNIX):
        return UnixConnection(address.removeprefix(UNIX))
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, TIMEOUT)
    context = ssl.create_default_context(cafile=asked["ca_file"] or None)
    if asked["cert_file"]:
        context.load_cert_chain(asked["cert_file"], asked["key_file"])
    return http.client.HTTPSConnection(
        parts.hostname or "", parts.port, timeout=TIMEOUT, context=context
    )


def call(asked: dict[str, Any], method: str, path: str) -> bytes:
    headers = {"X-Consul-Token": asked["token"]} if asked["token"] else {}
    link = connection(asked)
    try:
        link.request(method, path, headers=headers)
        answer = link.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"Consul cannot be asked at {asked['address']}: {error}")
    finally:
        link.close()
    if answer.status != 200:
        text = said.decode(errors="replace").strip()
        sys.exit(f"Consul answered {answer.status} to {method} {path}: {text}")
    return said


def ours(asked: dict[str, Any]) -> list[str]:
    services = json.loads(call(asked, "GET", "/v1/agent/services"))
    return sorted(
        service_id
        for service_id, service in services.items()
        if (service.get("Meta") or {}).get("managed-by") == "fleetmesh"
    )


def remove(asked: dict[str, Any]) -> dict[str, list[str]]:
    found = ours(asked)
    if asked["check"]:
        return {"found": found, "left": []}
    for service_id in found:
        call(asked, "PUT", f"/v1/agent/service/deregister/{urllib.parse.quote(service_id)}")
    return {"found": found, "left": ours(asked)}


if __name__ == "__main__":
    print(json.dumps(remove(json.load(sys.stdin))))
