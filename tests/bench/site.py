"""What all contenders share: certificates, ports, the application."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.install import path
from tests.bench.running import accepts, answers, free_ports, running, wait_for
from tests.support.ca import Authority, spiffe

SERVICES = ("api", "conn", "bulk")
"""`api` is HTTP; `conn` the same application as opaque TCP; `bulk` is iperf3."""
CALLER = "web"
SOURCES = tuple(f"source{number}" for number in range(19))
"""Services that may call besides CALLER: intentions and RBAC have twenty sources."""
KNOWN_SERVICES = 100
KNOWN_INSTANCES = 5


@dataclass(frozen=True)
class Site:
    """`pki` holds root.pem and NAME.pem, NAME.key; `application` are the ports behind it all."""

    directory: Path
    pki: Path
    authority: Authority
    application: dict[str, int]

    def spiffe(self, service: str) -> str:
        return str(spiffe(service))

    def others(self) -> list[tuple[str, list[int]]]:
        """Services that are known but never called, and their instances' ports."""
        count = KNOWN_SERVICES - len(SERVICES)
        return [
            (f"other{number}", [20000 + number * 10 + n for n in range(KNOWN_INSTANCES)])
            for number in range(count)
        ]


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """The application runs, and the certificates are made."""
    pki = directory / "pki"
    pki.mkdir(parents=True, exist_ok=True)
    authority = Authority()
    (pki / "root.pem").write_text(authority.root)
    for name in (CALLER, *SERVICES):
        leaf = authority.leaf(name)
        (pki / f"{name}.pem").write_text(leaf.chain)
        (pki / f"{name}.key").write_text(leaf.key or "")
        (pki / f"{name}-both.pem").write_text(leaf.chain + (leaf.key or ""))
    web, bulk = free_ports(2)
    with ExitStack() as stack:
        config = _application(directory, web)
        command = [path("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(config)]
        stack.enter_context(running("application", command, directory))
        iperf = [path("iperf3"), "--server", "--bind", "127.0.0.1", "--port", str(bulk)]
        stack.enter_context(running("iperf3", iperf, directory))
        wait_for("application", lambda: answers(web))
        wait_for("iperf3", lambda: accepts(bulk))
        yield Site(directory, pki, authority, {"api": web, "conn": web, "bulk": bulk})


def nginx_paths(directory: Path) -> str:
    """nginx writes where it was compiled to, unless told otherwise."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"  {kind}_temp_path {directory}/tmp_{kind};\n" for kind in kinds)


def nginx_user() -> str:
    """As root, nginx' workers would be somebody who may not read our files."""
    return "user root;\n" if os.geteuid() == 0 else ""


def _application(directory: Path, port: int) -> Path:
    files = directory / "files"
    files.mkdir(exist_ok=True)
    for name, size in (("4k", 4 * 1024), ("64k", 64 * 1024)):
        line = "".join(chr(33 + n % 94) for n in range(63)) + "\n"
        (files / name).write_text(line * (size // 64))
    config = directory / "application.conf"
    body = '{"service":"api","instance":"api1","message":"' + "x" * 48 + '"}'
    config.write_text(f"""\
{nginx_user()}daemon off;
worker_processes 1;
pid {directory}/application.pid;
events {{ worker_connections 8192; }}
http {{
{nginx_paths(directory)}
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_buffer_size 128k;
  open_file_cache max=10 inactive=600s;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location /small/ {{ return 200 '{body}'; }}
    location /4k/ {{ rewrite ^ /4k break; root {files}; }}
    location /64k/ {{ rewrite ^ /64k break; root {files}; error_page 405 =200 /64k; }}
    location = /64k {{ internal; root {files}; }}
  }}
}}
""")
    return config
