"""Consul 1.8.7's own cases for its Envoy sidecars, those without gateways, with our agents.

Each line of a case's ASSERTIONS.md is a check here, or stands as not portable with the reason. The
table at the end of the run has them, a case a row; as upstream a check is tried until it holds, for
as long as upstream's retries take.
"""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from tests.peers.clients import present
from tests.support.agent import inside
from tests.support.case_mesh import CALLEE, CALLER, CALLING_UID, HOMES, CaseMesh, case_mesh
from tests.support.consul_case import DATACENTER, SUITE, read_case
from tests.support.evidence import Evidence, tally
from tests.support.netns import needs_root

pytestmark = [
    pytest.mark.consul,
    needs_root,
    pytest.mark.skipif(not SUITE.exists(), reason=f"the suite of cases is not at {SUITE}"),
]

TABLE = "Consul's cases"
GRPC_PING = Path(__file__).parent / "programs/grpc_ping.mjs"
PATIENCE = 10.0
DENIAL = "denied"
DENIED = (("s1", "s2"),)
REQUESTS = 1000
# The square of 3.9 standard deviations: one run in 10,000 is beyond it by chance.
CHI_SQUARE = 15.2


@dataclass(frozen=True)
class Check:
    """`holds` says what is wrong, or nothing."""

    text: str
    holds: Callable[[CaseMesh], str]


@dataclass(frozen=True)
class NotPortable:
    text: str
    reason: str


Line = Check | NotPortable


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaseMesh]:
    with case_mesh(tmp_path_factory.mktemp("cases")) as running:
        yield running


def wrong(found: object, wanted: object) -> str:
    return "" if found == wanted else f"{found!r} in place of {wanted!r}"


def echo(port: int = 5000) -> Check:
    def holds(mesh: CaseMesh) -> str:
        reply = mesh.call(port, "POST", "/")[0]
        return wrong((reply.status, reply.content), (200, "hello"))

    return Check(f"ECHO({port})", holds)


def name(wanted: str, prefix: str = "", header: str = "") -> Check:
    """NAME of ASSERTIONS.md at port 5000."""

    def holds(mesh: CaseMesh) -> str:
        fields = {"Host": "localhost"} | ({"x-test-debug": header} if header else {})
        reply = mesh.call(5000, "GET", f"{prefix}/debug?env=dump", fields=fields)[0]
        told = re.search(r"^FORTIO_NAME=(.*)$", reply.content, re.MULTILINE)
        return wrong((reply.status, told and told[1]), (200, wanted))

    return Check(f"NAME({prefix or '/'}, {header or 'no header'}) == {wanted}", holds)


def unrouted(path: str, method: str = "GET", header: str = "") -> Check:
    """No route takes it: the default subset gets it with the path as it was."""

    def holds(mesh: CaseMesh) -> str:
        fields = {"x-test-debug": header} if header else {}
        reply = mesh.call(5000, method, path, fields=fields)[0]
        status = 200 if method == "POST" else 404
        return wrong((reply.status, reply.backend), (status, "s2-v1"))

    return Check(f"beyond upstream: {method} {path} ({header}) takes no route", holds)


def once(status: int, wanted: int) -> Check:
    """What becomes of a first answer with `status` on the route with retries; upstream leaves that
    to be tested."""

    def holds(mesh: CaseMesh) -> str:
        fields = {"x-test-debug": "regex-path", "x-fail": f"{status} {time.monotonic_ns()}"}
        reply = mesh.call(5000, "GET", "/debug?env=dump", fields=fields)[0]
        return wrong((reply.status, reply.backend), (wanted, "s2-v2"))

    return Check(f"beyond upstream: {status} on the route with retries ends as {wanted}", holds)


def preamble(healthy: dict[str, int]) -> list[Line]:
    """The lines that all cases share, for a case whose services and their sidecars are those of
    `healthy`: service → instances."""
    lines: list[Line] = [Check("A1: every agent is ready, by its own URL", _ready)]
    lines.append(Check("A2: every sidecar shows its SPIFFE ID without a client's", _identities))
    for one, count in healthy.items():
        lines.append(
            Check(
                f"A3: {count} passing of {one}",
                lambda mesh, one=one, count=count: wrong(mesh.healthy(one), count),  # type: ignore[misc]
            )
        )
    return lines


def endpoints(service: str, count: int) -> Check:
    return Check(
        f"A4: s1's agent has {count} healthy endpoints for {service}",
        lambda mesh: wrong(mesh.endpoints(service), count),
    )


def _ready(mesh: CaseMesh) -> str:
    homes = {HOMES[one] for one in mesh.case.services}
    late = [one for one in homes if mesh.page(one, "/readyz")[0] != 200]
    late += [one for one in mesh.case.services if not mesh.ready(one)]
    return f"not ready: {late}" if late else ""


def _identities(mesh: CaseMesh) -> str:
    domain = mesh.consul.get("/v1/agent/connect/ca/roots")["TrustDomain"]
    found, wanted = {}, {}
    for one in mesh.case.services.values():
        address = CALLER if HOMES[one.id] == "caller" else CALLEE
        found[one.id] = _shown(address, one.sidecar_port)
        wanted[one.id] = [f"spiffe://{domain}/ns/default/dc/{DATACENTER}/svc/{one.name}"]
    return wrong(found, wanted)


def _shown(address: str, port: int) -> list[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address, port), PATIENCE) as sock,
        context.wrap_socket(sock) as secured,
    ):
        certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _empty_reply(mesh: CaseMesh) -> str:
    """curl's exit code 52."""
    body = b"POST / HTTP/1.1\r\nHost: localhost:5000\r\nContent-Length: 5\r\n\r\nhello"
    with mesh.dial(5000) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(body)
        return wrong(sock.recv(100), b"")


def _denied_by_destination(mesh: CaseMesh) -> str:
    """One more call is one more refusal at s2's agent, and none at s1's own hand."""
    before = _denials(mesh, HOMES["s2"], "inbound"), _denials(mesh, "caller", "outbound")
    with mesh.dial(5000) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost:5000\r\n\r\n")
        sock.recv(100)
    end = time.monotonic() + PATIENCE
    wanted = before[0] + 1, before[1]
    while True:
        after = _denials(mesh, HOMES["s2"], "inbound"), _denials(mesh, "caller", "outbound")
        if after == wanted or time.monotonic() > end:
            return wrong(after, wanted)
        time.sleep(0.1)


def _denials(mesh: CaseMesh, agent: str, direction: str) -> int:
    lines = mesh.page(agent, "/metrics")[1].splitlines()
    wanted = (f'direction="{direction}"', 'source="s1"', 'destination="s2"', f'reason="{DENIAL}"')
    return sum(
        int(float(line.split()[-1]))
        for line in lines
        if line.startswith("fleetmesh_refusals_total{") and all(one in line for one in wanted)
    )


def _forbidden(mesh: CaseMesh) -> str:
    """As Consul does it from 1.9 on; 1.8's Envoy could only say 503."""
    reply = mesh.call(5000, "POST", "/")[0]
    return wrong((reply.status, reply.backend), (403, ""))


def _half_and_half(mesh: CaseMesh) -> str:
    replies = mesh.call(5000, "GET", "/debug?env=dump", REQUESTS)
    counts = {one: sum(r.backend == one for r in replies) for one in ("s2-v1", "s2-v2")}
    expected = REQUESTS / 2
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    if sum(counts.values()) != REQUESTS or chi_square > CHI_SQUARE:
        return f"{counts}, chi-square {chi_square:.1f}"
    Evidence(TABLE)(f"splitter, {REQUESTS} requests: {counts}, chi-square {chi_square:.2f}")
    return ""


def _metrics(mesh: CaseMesh) -> str:
    status, text = mesh.page("caller", "/metrics")
    labelled = 'source="s1"' in text and 'destination="s2"' in text
    return "" if status == 200 and labelled and "# TYPE " in text else f"{status} {text[:500]}"


def _told(mesh: CaseMesh) -> str:
    paths = [problem["path"] for problem in mesh.status()["problems"]]
    wanted = "proxy-defaults/global: Config.envoy_prometheus_bind_addr"
    return "" if wanted in paths else f"not among {paths}"


def _ping(mesh: CaseMesh) -> str:
    """As s1's user; the server is s2's application."""
    node = present("node")
    port = mesh.port(5000)
    with mesh.callee.listen("127.0.0.1", port) as listening:
        listening.settimeout(None)
        fd = listening.fileno()
        serving = subprocess.Popen([node, GRPC_PING, "serve", str(fd)], pass_fds=[fd])
        try:
            with inside(mesh.space.name):
                called = subprocess.run(
                    [
                        *("setpriv", f"--reuid={CALLING_UID}", "--clear-groups", node),
                        *(str(GRPC_PING), "call", f"http://{CALLEE}:{port}"),
                    ],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
        finally:
            serving.kill()
            serving.wait()
    wanted = (0, "grpc-status 0, echoed\n")
    return wrong((called.returncode, called.stdout), wanted) and f"{called}"


STATSD = "the agent pushes no statistics over UDP: metrics are scraped, see operations.md"
PLAIN = {"s1": 1, "s2": 1}
SUBSETS = {"s1": 1, "s2": 3}
ROUTES = [
    name("s2-v2", "/exact"),
    name("s2-v1", "/exact-alt"),
    name("s2-v2", "/prefix"),
    name("s2-v1", "/prefix-alt"),
    name("s2-v2", "", "regex-path"),
    name("s2-v2", "/hdr-present", "anything"),
    name("s2-v1", "/hdr-present"),
    name("s2-v2", "/hdr-exact", "exact"),
    name("s2-v1", "/hdr-exact", "exact-alt"),
    name("s2-v2", "/hdr-prefix", "prefix"),
    name("s2-v1", "/hdr-prefix", "alt-prefix"),
    name("s2-v2", "/hdr-suffix", "suffix"),
    name("s2-v1", "/hdr-suffix", "suffix-alt"),
    name("s2-v2", "/hdr-regex", "regex"),
    name("s2-v1", "/hdr-regex", "regexx"),
    name("s2-v2", "/hdr-invert", "something-else"),
    name("s2-v2", "/qp-present"),
    name("s2-v2", "/qp-exact"),
    name("s2-v2", "/qp-regex"),
    name("s2-v2", "/method-match"),
    name("s2-v1"),
    once(500, 200),
    once(512, 200),
    once(503, 503),
    unrouted("/exact/debug/more?env=dump"),
    unrouted("/hdr-regex/debug?env=dump", header="regexxx"),
    unrouted("/hdr-invert/debug?env=dump", header="not-this"),
    unrouted("/qp-present/debug?other=dump"),
    unrouted("/qp-exact/debug?env=dumps"),
    unrouted("/qp-regex/debug?env=dumpp"),
    unrouted("/method-match/debug?env=dump", method="POST"),
]

CASES: dict[str, list[Line]] = {
    "badauthz": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        Check("a POST to localhost:5000 gets an empty reply", _empty_reply),
        Check("the destination's agent is the one that denies", _denied_by_destination),
    ],
    "basic": [*preamble(PLAIN), endpoints("s2", 1), echo()],
    "centralconf": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        echo(),
        Check("/metrics at port 1234 has labels for s1 and its upstream", _metrics),
        Check("the key that names Envoy's address is told as not honoured", _told),
        NotPortable(
            "the bind address comes from central configuration",
            "one agent serves every service of a host: its address is in the host's settings",
        ),
        NotPortable("names of Envoy's metrics", "Envoy's own"),
    ],
    "cfg-resolver-defaultsubset": [
        *preamble(SUBSETS),
        endpoints("s2", 1),
        name("s2-v2"),
    ],
    "cfg-resolver-features": [*preamble(SUBSETS), endpoints("s2", 1), name("s2-v2")],
    "cfg-resolver-svc-redirect-http": [
        *preamble({"s1": 1, "s2": 1, "s3": 1}),
        endpoints("s2", 1),
        echo(),
        name("s3"),
    ],
    "cfg-router-features": [*preamble(SUBSETS), endpoints("s2", 2), *ROUTES],
    "cfg-splitter-features": [
        *preamble(SUBSETS),
        endpoints("s2", 2),
        Check("NAME is s2-v1 or s2-v2, half and half", _half_and_half),
    ],
    "dogstatsd-udp": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        echo(),
        NotPortable("UDP lines carry local_cluster:s1 and foo:bar", STATSD),
    ],
    "grpc": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        Check("a gRPC ping succeeds", _ping),
        NotPortable("a statsd line with an Envoy gRPC metric name", STATSD),
    ],
    "http": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        echo(),
        NotPortable("the filter's name in the listener", "Envoy's own"),
    ],
    "http-badauthz": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        Check("a POST gets an HTTP answer: 403", _forbidden),
        Check("the destination's agent is the one that denies", _denied_by_destination),
    ],
    "prometheus": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        echo(),
        Check("/metrics at port 1234 names the local service", _metrics),
        NotPortable("names of Envoy's metrics", "Envoy's own"),
    ],
    "stats-proxy": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        echo(),
        NotPortable("/stats and /stats/prometheus at port 1239", "pages of Envoy's own"),
    ],
    "statsd-udp": [
        *preamble(PLAIN),
        endpoints("s2", 1),
        echo(),
        NotPortable("something arrives on UDP 8125", STATSD),
    ],
}


def test_every_case_without_gateways_is_here() -> None:
    folders = {path.name.removeprefix("case-") for path in SUITE.glob("case-*")}
    assert {one for one in folders if "gateway" not in one} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(mesh: CaseMesh, tmp_path: Path, case: str) -> None:
    mesh.play(read_case(case, tmp_path), *(DENIED if "badauthz" in case else ()))
    failed = []
    for line in CASES[case]:
        if isinstance(line, NotPortable):
            tally(TABLE, case, "not portable")
            Evidence(TABLE)(f"{case}: not portable: {line.text} ({line.reason})")
            continue
        tally(TABLE, case, "assertions")
        if reason := patiently(mesh, line):
            failed.append(f"{line.text}: {reason}")
        else:
            tally(TABLE, case, "passed")
    assert not failed, "\n".join([*failed, mesh.agents["caller"].log()[-3000:]])


def patiently(mesh: CaseMesh, check: Check) -> str:
    """What is still wrong at the end of our patience, if anything."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            reason = check.holds(mesh)
        except (OSError, StopIteration) as error:
            reason = repr(error)
        if not reason or time.monotonic() > end:
            return reason
        time.sleep(0.1)
