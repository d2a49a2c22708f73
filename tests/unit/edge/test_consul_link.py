"""The way to Consul: addresses, TLS files and tokens, and what is said of those that are unfit."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tests.support.ca import Authority

from fleetmesh.edge import consul_link
from fleetmesh.edge.consul_link import UnfitError, Where
from fleetmesh.settings import ConsulSettings

SECRET = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a"


@pytest.mark.parametrize(
    ("address", "base", "socket"),
    [
        ("http://127.0.0.1:8500", "http://127.0.0.1:8500", ""),
        ("https://[::1]:8501", "https://[::1]:8501", ""),
        ("https://consul.example", "https://consul.example:8500", ""),
        ("127.0.0.1:8600", "http://127.0.0.1:8600", ""),
        ("unix:///run/consul/consul.sock", "http://consul:8500", "/run/consul/consul.sock"),
    ],
)
def test_where(address: str, base: str, socket: str) -> None:
    where = Where(address)
    assert (where.base, where.socket) == (base, socket)


def test_token_from_its_file_or_from_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert consul_link.read_token(ConsulSettings()) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert consul_link.read_token(ConsulSettings()) is None
    (tmp_path / "consul-token").write_text(f"{SECRET}\n")
    assert consul_link.read_token(ConsulSettings()) == SECRET
    (tmp_path / "own").write_text("own")
    assert consul_link.read_token(ConsulSettings(token_file=str(tmp_path / "own"))) == "own"


def test_after_a_reload_a_credential_stays_until_another_is_handed_over(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("own")
    assert consul_link.next_token(ConsulSettings(), None, "present") == "present"
    assert consul_link.next_token(ConsulSettings(), " handed\n", "present") == "handed"
    own = ConsulSettings(token_file=str(tmp_path / "own"))
    assert consul_link.next_token(own, "handed", "present") == "own"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (f"SecretID: {SECRET}".encode(), "holds no token"),
        (f"{SECRET}\r\n{SECRET}".encode(), "holds no token"),
        (b"\xff\xfe", "cannot be read: it is not text"),
    ],
)
def test_a_file_that_holds_no_token(tmp_path: Path, content: bytes, rule: str) -> None:
    """It is named with key and remedy, and its content stays its own."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(UnfitError) as caught:
        consul_link.read_token(ConsulSettings(token_file=str(file)))
    problem = caught.value.of(Path("/etc/fleetmesh/agent.yaml"))
    assert problem.path == "/etc/fleetmesh/agent.yaml: consul.token_file"
    assert problem.rule == f"{file} {rule}"
    assert problem.remedy
    assert SECRET not in str(problem)


def test_what_the_unit_loads_is_read_for_commands_where_it_may_be(tmp_path: Path) -> None:
    file = tmp_path / "consul.token"
    assert consul_link.source_token(str(file)) is None
    file.write_text(SECRET)
    assert consul_link.source_token(str(file)) == SECRET
    file.write_text("")
    with pytest.raises(UnfitError, match="is empty"):
        consul_link.source_token(str(file))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """ca, cert, key of a client, and `other`, a key that belongs to nothing."""
    authority = Authority()
    leaf, other = authority.leaf("web"), authority.leaf("web")
    texts = {"ca": authority.root, "cert": leaf.chain, "key": leaf.key, "other": other.key}
    texts["text"] = "no PEM\n"
    for name, text in texts.items():
        (tmp_path / name).write_text(str(text))
    return {name: str(tmp_path / name) for name in (*texts, "none")}


def https(files: dict[str, str], **named: str) -> ConsulSettings:
    chosen = {f"{key}_file": files[name] for key, name in named.items()}
    return ConsulSettings(address="https://127.0.0.1:8501", **chosen)


def test_tls_trusts_the_named_cas_and_no_others(files: dict[str, str]) -> None:
    made = consul_link.context(https(files, ca="ca", cert="cert", key="key"))
    assert made is not None
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname
    assert made.cert_store_stats()["x509"] == 1
    assert consul_link.context(ConsulSettings()) is None


@pytest.mark.parametrize(
    ("named", "key", "rule"),
    [
        ({"ca": "none"}, "ca_file", "cannot be read: No such file or directory"),
        ({"ca": "text"}, "ca_file", "cannot be used: "),
        ({"cert": "none", "key": "key"}, "cert_file", "cannot be read: No such file"),
        ({"cert": "text", "key": "key"}, "cert_file", "cannot be used: "),
        ({"cert": "cert", "key": "other"}, "cert_file", "the key is not of the certificate"),
    ],
)
def test_files_that_are_unfit(
    files: dict[str, str], named: dict[str, str], key: str, rule: str
) -> None:
    with pytest.raises(UnfitError) as caught:
        consul_link.context(https(files, **named))
    assert caught.value.problem.path == f"consul.{key}"
    assert rule in caught.value.problem.rule
    assert caught.value.problem.remedy


def test_renewing_with_unfit_files_changes_nothing(files: dict[str, str]) -> None:
    held = consul_link.context(https(files, ca="ca", cert="cert", key="key"))
    with pytest.raises(UnfitError):
        consul_link.renew(held, https(files, ca="ca", cert="cert", key="other"))
    consul_link.renew(held, https(files, ca="ca", cert="cert", key="key"))
    consul_link.renew(None, ConsulSettings())


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self", "consul.ca_file"),
        ("certificate verify failed: IP address mismatch, …", "consul.address"),
        ("certificate verify failed: Hostname mismatch, …", "consul.address"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert", "consul.cert_file"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "http at consul.address"),
    ],
)
def test_what_went_wrong_with_tls_has_a_remedy(said: str, advice: str) -> None:
    assert advice in consul_link.explained(OSError(said))
    assert consul_link.explained(OSError("no route")) == "no route"
    assert consul_link.explained(TimeoutError()) == ""
