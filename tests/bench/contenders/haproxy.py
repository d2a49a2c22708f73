"""HAProxy: mutual TLS, callers admitted by the common name (this version has no fetch for URI
SANs), one thread a side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.bench.install import path
from tests.bench.running import answers, free_ports, running, wait_for
from tests.bench.site import CALLER, SERVICES, SOURCES, Site

_HEAD = """\
global
  nbthread 1
  maxconn 6000
  tune.ssl.default-dh-param 2048
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  http-reuse always
"""


@contextmanager
def start(site: Site) -> Iterator[tuple[dict[str, int], list[int]]]:
    ports = free_ports(2 * len(SERVICES))
    entry = dict(zip(SERVICES, ports[: len(SERVICES)], strict=True))
    sidecar = dict(zip(SERVICES, ports[len(SERVICES) :], strict=True))
    pki = site.pki
    sources = " ".join((*SOURCES, CALLER))
    outbound = inbound = _HEAD
    for name in SERVICES:
        mode = "http" if name == "api" else "tcp"
        deny = f"{'http-request deny' if mode == 'http' else 'tcp-request content reject'}"
        outbound += f"""\
listen {name}
  mode {mode}
  bind 127.0.0.1:{entry[name]}
  server api1 127.0.0.1:{sidecar[name]} ssl crt {pki}/{CALLER}-both.pem \
ca-file {pki}/root.pem verify required
"""
        inbound += f"""\
listen {name}
  mode {mode}
  bind 127.0.0.1:{sidecar[name]} ssl crt {pki}/{name}-both.pem ca-file {pki}/root.pem \
verify required
  {deny} unless {{ ssl_c_s_dn(cn) {sources} }}
  server application 127.0.0.1:{site.application[name]}
"""
    with ExitStack() as stack:
        pids = []
        for side, config in (("outbound", outbound), ("inbound", inbound)):
            file = site.directory / f"haproxy-{side}.cfg"
            file.write_text(config)
            command = [path("haproxy"), "-db", "-f", str(file)]
            pids.append(stack.enter_context(running(f"haproxy-{side}", command, site.directory)))
        wait_for("haproxy", lambda: answers(entry["api"]))
        yield entry, pids
