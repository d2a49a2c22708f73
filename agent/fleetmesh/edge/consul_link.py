"""How the local Consul agent is reached, and with which token: a URL or a Unix socket, TLS from
files, and the token from a file, from systemd or from `fleetmesh reload`."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import structs

from fleetmesh.model.problem import Problem
from fleetmesh.settings import ConsulSettings

UNIX = "unix://"
DEFAULT_PORT = 8500
CREDENTIAL = "consul-token"
"""The name of the token among the unit's credentials (LoadCredential=)."""
TOKEN_SOURCE = "/etc/fleetmesh/consul.token"  # noqa: S105 - where it lies
"""What the roles' unit loads the credential from; for root only."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_TLS_ADVICE = (
    ("certificate verify failed: Hostname mismatch", "name it in consul.address as it does itself"),
    ("certificate verify failed: IP address mismatch", "name it in consul.address as it does"),
    ("certificate verify failed", "name its CAs in consul.ca_file"),
    ("CERTIFICATE_REQUIRED", "Consul wants a client certificate: consul.cert_file, key_file"),
    ("BAD_CERTIFICATE", "Consul refuses consul.cert_file"),
    ("UNKNOWN_CA", "Consul does not know the CA of consul.cert_file"),
    ("WRONG_VERSION_NUMBER", "Consul speaks http at consul.address, not https"),
)


class UnfitError(Exception):
    """A file that the settings of Consul name cannot be used."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem

    def of(self, agent_file: Path) -> Problem:
        """As told of the file that names the other one."""
        return structs.replace(self.problem, path=f"{agent_file}: {self.problem.path}")


class Where:
    """The parts of `consul.address`; `socket` is the path of a Unix socket, else empty."""

    def __init__(self, address: str) -> None:
        self.socket = address.removeprefix(UNIX) if address.startswith(UNIX) else ""
        parts = urlsplit("http://consul" if self.socket else _with_scheme(address))
        host = parts.hostname or "127.0.0.1"
        self.host = f"[{host}]" if ":" in host else host
        self.port = parts.port or DEFAULT_PORT
        self.scheme = parts.scheme

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def context(consul: ConsulSettings) -> ssl.SSLContext | None:
    """TLS to Consul; None where the address is not https. Raises UnfitError."""
    if not consul.address.startswith("https:"):
        return None
    try:
        made = ssl.create_default_context(cafile=consul.ca_file)
    except OSError as error:
        raise _unfit("ca_file", consul.ca_file, error) from error
    _load_own(made, consul)
    return made


def renew(held: ssl.SSLContext | None, consul: ConsulSettings) -> None:
    """Files may have been replaced: connections from now on use what they hold. CAs are added.

    Raises UnfitError, and changes nothing then.
    """
    if held is None or context(consul) is None:
        return
    if consul.ca_file is not None:
        held.load_verify_locations(consul.ca_file)
    _load_own(held, consul)


def read_token(consul: ConsulSettings) -> str | None:
    """The token in `token_file`, else among the unit's credentials, else None. Raises
    UnfitError."""
    path = consul.token_file or _credential()
    if path is None:
        return None
    key = "token_file" if consul.token_file is not None else f"credential {CREDENTIAL}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unfit(key, path, error) from error
    return checked(key, path, text)


def source_token(path: str = TOKEN_SOURCE) -> str | None:
    """The token as the unit is given it, for commands that root runs; None for others, and where
    there is none. Raises UnfitError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, PermissionError):
        return None
    except (OSError, ValueError) as error:
        raise _unfit("token", path, error) from error
    return checked("token", path, text)


def next_token(consul: ConsulSettings, handed: str | None, present: str | None) -> str | None:
    """After a reload: what `token_file` holds, else what was handed over, else the present one,
    for systemd does not read a credential again while the unit runs. Raises UnfitError."""
    if consul.token_file is not None:
        return read_token(consul)
    return present if handed is None else checked("token", "what was handed over", handed)


def checked(key: str, where: str, text: str) -> str:
    """The token in `text`, which no message ever shows. Raises UnfitError."""
    token = text.strip()
    if _TOKEN.fullmatch(token):
        return token
    raise UnfitError(
        Problem(
            f"consul.{key}",
            f"{where} {'holds no token' if token else 'is empty'}",
            "Write the token's SecretID into it, and nothing else",
        )
    )


def explained(error: Exception) -> str:
    """What went wrong on the way to Consul, with a remedy where TLS is the reason."""
    said = str(error)
    for sign, advice in _TLS_ADVICE:
        if sign in said:
            return f"{said} ({advice})"
    return said


def _load_own(made: ssl.SSLContext, consul: ConsulSettings) -> None:
    if consul.cert_file is None:
        return
    try:
        # A password would be asked for on the terminal.
        made.load_cert_chain(consul.cert_file, consul.key_file, password=lambda: "")
    except OSError as error:
        raise _unfit("cert_file", f"{consul.cert_file} with {consul.key_file}", error) from error


def _unfit(key: str, path: object, error: Exception) -> UnfitError:
    verb = "read"
    if isinstance(error, ssl.SSLError):
        verb = "used"
        why, remedy = error.reason or "it is not PEM", "Write PEM, and a key without a password"
        if error.reason == "KEY_VALUES_MISMATCH":
            why, remedy = "the key is not of the certificate", "Name the two that belong together"
    else:
        why = getattr(error, "strerror", None) or "it is not text"
        remedy = "The user fleetmesh must be able to read it"
    return UnfitError(Problem(f"consul.{key}", f"{path} cannot be {verb}: {why}", remedy))


def _credential() -> str | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory or "/nonexistent", CREDENTIAL)
    return str(path) if directory and path.exists() else None


def _with_scheme(address: str) -> str:
    return address if "//" in address else f"http://{address}"
