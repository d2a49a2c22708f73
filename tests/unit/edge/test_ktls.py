from __future__ import annotations

import subprocess

import pytest

from fleetmesh.edge import ktls


@pytest.mark.parametrize(
    ("ulps", "openssl", "built", "said"),
    [
        ("", (3, 0), True, "no (the kernel has no module tls loaded)"),
        ("mptcp espintcp\n", (3, 0), True, "no (the kernel has no module tls loaded)"),
        ("espintcp mptcp tls\n", (1, 1), True, "no (OpenSSL 1.1 cannot, 3.0 can)"),
        ("tls\n", (3, 0), False, "no (this OpenSSL is built without it)"),
        ("tls", (3, 5), True, "no (kernel and OpenSSL can, but the agent encrypts in memory)"),
    ],
)
def test_the_first_thing_in_the_way_is_named(
    ulps: str, openssl: tuple[int, ...], built: bool, said: str
) -> None:
    """Never `yes`: whatever a host offers, the relay does not use it."""
    assert ktls.verdict(ulps, openssl, built) == said


def test_this_host_is_told_of_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = "tls" in ktls.ULPS.read_text().split() if ktls.ULPS.exists() else False
    assert ("no module tls" in ktls.kernel_tls()) is not loaded
    monkeypatch.setattr(ktls, "ULPS", ktls.ULPS / "nowhere")
    assert "no module tls" in ktls.kernel_tls()


def test_debians_openssl_is_built_for_it() -> None:
    """Its header says what the probe finds out of the library."""
    done = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("OpenSSL 3.0"):
        pytest.skip("not Debian 12's OpenSSL")
    assert ktls.openssl_is_built_for_it()


def test_a_library_that_is_not_there_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError

    monkeypatch.setattr(ktls.ctypes, "CDLL", absent)
    assert not ktls.openssl_is_built_for_it()
