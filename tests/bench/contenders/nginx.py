"""nginx: mutual TLS, callers of HTTP admitted by the common name, one worker a side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.install import nginx_modules, path
from tests.bench.running import answers, free_ports, running, wait_for
from tests.bench.site import CALLER, SERVICES, SOURCES, Site, nginx_paths, nginx_user


@contextmanager
def start(site: Site) -> Iterator[tuple[dict[str, int], list[int]]]:
    ports = free_ports(2 * len(SERVICES))
    entry = dict(zip(SERVICES, ports[: len(SERVICES)], strict=True))
    sidecar = dict(zip(SERVICES, ports[len(SERVICES) :], strict=True))
    tcp = [name for name in SERVICES if name != "api"]
    outbound = _config(
        site,
        "outbound",
        _http(entry["api"], sidecar["api"], "https", _client_tls(site, "api")),
        [_stream(entry[n], sidecar[n], _client_tls(site, n) + "proxy_ssl on;") for n in tcp],
    )
    inbound = _config(
        site,
        "inbound",
        _http(sidecar["api"], site.application["api"], "http", _server_tls(site, "api"), " ssl")
        + f"  map $ssl_client_s_dn $stranger {{ default 1; {_admitted()} }}\n",
        [_stream(sidecar[n], site.application[n], _server_tls(site, n), " ssl") for n in tcp],
    )
    with ExitStack() as stack:
        pids = []
        for side, file in (("outbound", outbound), ("inbound", inbound)):
            command = [path("nginx"), "-p", str(site.directory), "-e", "stderr", "-c", str(file)]
            pids.append(stack.enter_context(running(f"nginx-{side}", command, site.directory)))
        wait_for("nginx", lambda: answers(entry["api"]))
        yield entry, pids


def _admitted() -> str:
    return " ".join(f"CN={source} 0;" for source in (*SOURCES, CALLER))


def _config(site: Site, side: str, http: str, streams: list[str]) -> Path:
    file = site.directory / f"nginx-{side}.conf"
    paths = nginx_paths(site.directory).replace("tmp_", f"tmp_{side}_")
    file.write_text(f"""\
load_module {nginx_modules()}/ngx_stream_module.so;
{nginx_user()}daemon off;
worker_processes 1;
pid {site.directory}/nginx-{side}.pid;
events {{ worker_connections 8192; }}
http {{
{paths}
  access_log off;
{http}}}
stream {{
{"".join(streams)}}}
""")
    return file


def _http(port: int, onwards: int, scheme: str, tls: str, listen: str = "") -> str:
    deny = "if ($stranger) { return 403; }" if listen else ""
    return f"""\
  upstream next {{ server 127.0.0.1:{onwards}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port}{listen} backlog=4096;
    keepalive_requests 1000000000;
    {tls}
    client_body_buffer_size 128k;
    proxy_buffers 16 8k;
    location / {{
      {deny}
      proxy_pass {scheme}://next;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
    }}
  }}
"""


def _stream(port: int, onwards: int, tls: str, listen: str = "") -> str:
    return f"""\
  server {{
    listen 127.0.0.1:{port}{listen} backlog=4096;
    {tls}
    proxy_pass 127.0.0.1:{onwards};
  }}
"""


def _client_tls(site: Site, name: str) -> str:
    pki = site.pki
    return (
        f"proxy_ssl_certificate {pki}/{CALLER}.pem; proxy_ssl_certificate_key {pki}/{CALLER}.key; "
        f"proxy_ssl_trusted_certificate {pki}/root.pem; proxy_ssl_verify on; "
        f"proxy_ssl_name {name}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.2 TLSv1.3; "
    )


def _server_tls(site: Site, name: str) -> str:
    pki = site.pki
    return (
        f"ssl_certificate {pki}/{name}.pem; ssl_certificate_key {pki}/{name}.key; "
        f"ssl_client_certificate {pki}/root.pem; ssl_verify_client on; "
        "ssl_protocols TLSv1.2 TLSv1.3; "
    )
