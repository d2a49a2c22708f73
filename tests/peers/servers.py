"""Servers that others wrote, each a process of its own.

All have the same resources:

- `/small`, `/large` have a Content-Length, `/small` an ETag too; `/chunked` is as large, its
  length unknown beforehand;
- `/echo` answers a POST with what it received;
- `/nothing` is 204, `/old` redirects to `/small`;
- `/caller` is what the mesh says of the caller, `/port` the port that the connection came from;
- `/events` (not on nginx) are server-sent events.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.bench.install import need
from tests.bench.running import accepts, free_ports, running, wait_for
from tests.bench.site import nginx_paths, nginx_user
from tests.peers.programs.content import LARGE, SMALL

PROGRAMS = Path(__file__).parent / "programs"


@contextmanager
def served(
    name: str, directory: Path, command: Callable[[int], list[str]], **variables: str
) -> Iterator[int]:
    """The port that `command(port)` listens on, with `variables` in its environment."""
    (port,) = free_ports(1)
    with running(name, command(port), directory, **variables):
        wait_for(f"{name} ({directory}/{name}.log)", lambda: accepts(port))
        yield port


def aiohttp(directory: Path) -> AbstractContextManager[int]:
    return script("aiohttp_server.py", directory)


def http10(directory: Path) -> AbstractContextManager[int]:
    """Answers in HTTP/1.0, with only `/small`, `/large`, `/chunked` and `/echo`."""
    return script("http10_server.py", directory)


def script(name: str, directory: Path) -> AbstractContextManager[int]:
    """`name PORT`, of the programs here."""
    command = [sys.executable, str(PROGRAMS / name)]
    return served(name, directory, lambda port: [*command, str(port)])


def gunicorn(directory: Path) -> AbstractContextManager[int]:
    """Threads keep connections open; its default worker closes each after one answer."""
    return _gunicorn(directory, "gthread", "--threads=16", "--keep-alive=30")


def gunicorn_sync(directory: Path) -> AbstractContextManager[int]:
    return _gunicorn(directory, "sync")


def _gunicorn(directory: Path, kind: str, *options: str) -> AbstractContextManager[int]:
    def command(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "gunicorn", "--no-control-socket", "--graceful-timeout=1"),
            *(f"--chdir={PROGRAMS}", f"--bind=127.0.0.1:{port}", f"--worker-class={kind}"),
            *(*options, "wsgi:application"),
        ]

    return served(f"gunicorn-{kind}", directory, command)


def nginx(directory: Path) -> AbstractContextManager[int]:
    """Its `/echo` keeps the upload in a file, and asks itself for that file. Server-side includes
    are what leaves it without a length."""
    (directory / "small").write_bytes(SMALL)
    (directory / "large").write_bytes(LARGE)

    def command(port: int) -> list[str]:
        file = directory / "nginx.conf"
        file.write_text(f"""\
{nginx_user()}daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
{nginx_paths(directory)}
  access_log off;
  client_max_body_size 0;
  absolute_redirect off;
  server {{
    listen 127.0.0.1:{port};
    root {directory};
    location = /chunked {{ ssi on; ssi_types *; alias {directory}/large; }}
    location = /echo {{
      client_body_in_file_only clean;
      proxy_pass http://127.0.0.1:{port}/received;
      proxy_method GET;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Received $request_body_file;
    }}
    location = /received {{ alias $http_x_received; }}
    location = /nothing {{ return 204; }}
    location = /old {{ return 302 /small; }}
    location = /caller {{ return 200 $http_x_forwarded_client_cert; }}
    location = /port {{ return 200 $remote_port; }}
  }}
}}
""")
        return [need("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(file)]

    return served("nginx", directory, command)


SERVERS = {
    "nginx": nginx,
    "aiohttp": aiohttp,
    "gunicorn": gunicorn,
    "gunicorn-sync": gunicorn_sync,
}
