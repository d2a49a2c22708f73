"""Whether TLS could be done in the kernel here, and whether it is: a sentence for `status`.

The relay encrypts into memory (`ssl.MemoryBIO`), which the kernel cannot take over whatever it
offers: docs/adr/0009 says what would be needed. The probe tells an operator what stands in the
way on this host.
"""

from __future__ import annotations

import ctypes
import ssl
from pathlib import Path

ULPS = Path("/proc/sys/net/ipv4/tcp_available_ulp")
NEEDED_OPENSSL = (3, 0)

# openssl/bio.h, internal/bio.h: a socket BIO of an OpenSSL with kernel TLS remembers in a flag
# that the next record is a control message; one without leaves the flag alone.
_CTRL_SET_KTLS_SEND_CTRL_MSG = 74
_FLAGS_KTLS_TX_CTRL_MSG = 0x1000
_ALERT = 21


def kernel_tls() -> str:
    """`no`, and why."""
    try:
        ulps = ULPS.read_text()
    except OSError:
        ulps = ""
    return verdict(ulps, ssl.OPENSSL_VERSION_INFO[:2], openssl_is_built_for_it())


def verdict(ulps: str, openssl: tuple[int, ...], built: bool) -> str:
    """`ulps` are the kernel's upper layer protocols for TCP, separated by blanks."""
    if "tls" not in ulps.split():
        return "no (the kernel has no module tls loaded)"
    if openssl < NEEDED_OPENSSL:
        return f"no (OpenSSL {openssl[0]}.{openssl[1]} cannot, 3.0 can)"
    if not built:
        return "no (this OpenSSL is built without it)"
    return "no (kernel and OpenSSL can, but the agent encrypts in memory)"


def openssl_is_built_for_it() -> bool:
    """Whether the OpenSSL of this process has the code; False where that cannot be known."""
    try:
        crypto = ctypes.CDLL(f"libcrypto.so.{ssl.OPENSSL_VERSION_INFO[0]}")
        new, method, free = crypto.BIO_new, crypto.BIO_s_socket, crypto.BIO_free
        control, test = crypto.BIO_ctrl, crypto.BIO_test_flags
    except (OSError, AttributeError):
        return False
    method.restype = new.restype = ctypes.c_void_p
    new.argtypes = free.argtypes = [ctypes.c_void_p]
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    control.restype = ctypes.c_long
    test.argtypes = [ctypes.c_void_p, ctypes.c_int]
    bio = new(method())
    if not bio:
        return False
    try:
        control(bio, _CTRL_SET_KTLS_SEND_CTRL_MSG, _ALERT, None)
        return bool(test(bio, _FLAGS_KTLS_TX_CTRL_MSG))
    finally:
        free(bio)
