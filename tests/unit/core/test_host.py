from __future__ import annotations

import pytest

from fleetmesh.core.host import named_host


@pytest.mark.parametrize(
    ("head", "host"),
    [
        (b"GET / HTTP/1.1\r\nHost: api", "api"),
        (b"\r\nPOST /x?y HTTP/1.1\r\nA: b\r\nhOsT:\tApi.Mesh.:8080 \r\nC: d", "api.mesh"),
        (b"GET / HTTP/1.1\r\nHost: \xe4pi", "\xe4pi"),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80", "["),
        (b"GET / HTTP/1.0", ""),
        (b"GET / HTTP/1.1\r\nHost: api\r\nHost: api", ""),
        (b"GET / HTTP/1.1\r\nX-Host: api", ""),
        (b"GET http://api/ HTTP/1.1\r\nHost: api", ""),
        (b"CONNECT api:80 HTTP/1.1\r\nHost: api:80", ""),
        (b"OPTIONS * HTTP/1.1\r\nHost: api", ""),
        (b"GET /\r\nHost: api", ""),
        (b"", ""),
    ],
)
def test_one_host_of_a_request_in_origin_form(head: bytes, host: str) -> None:
    assert named_host(head) == host
