"""Files that are right, and files that are looked at together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fleetmesh.cli import app

POLICY = """\
config_entries:
  - {Kind: service-defaults, Name: api, Protocol: http}
  - Kind: service-splitter
    Name: api
    Splits: [{Weight: 90, ServiceSubset: v1}, {Weight: 10, ServiceSubset: v2}]
intentions:
  - {source: "*", destination: api, action: deny, description: "nobody else"}
  - {source: web, destination: api, action: allow}
"""


def validate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["validate", *map(str, arguments)])


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host whose files are right; its service's user exists everywhere."""
    (tmp_path / "agent.yaml").write_text("address: 192.0.2.5\n")
    services = tmp_path / "services.d"
    services.mkdir()
    (services / "web.yaml").write_text("name: web\nport: 8080\nuser: nobody\n")
    return tmp_path


def test_each_kind_is_recognised(host: Path) -> None:
    """By what it holds, whatever it is called."""
    (host / "rules.yml").write_text(POLICY)
    (host / "entry.yaml").write_text("Kind: service-resolver\nName: api\nConnectTimeout: 3s\n")
    files = [
        host / "agent.yaml",
        host / "services.d/web.yaml",
        host / "rules.yml",
        host / "entry.yaml",
    ]
    result = validate(*files)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"{files[0]}: valid (agent settings)",
        f"{files[1]}: valid (service)",
        f"{files[2]}: valid (policy)",
        f"{files[3]}: valid (policy)",
    ]


def test_a_whole_host(host: Path) -> None:
    result = validate("--agent", host / "agent.yaml", "--services", host / "services.d")
    assert result.exit_code == 0, result.stderr


def test_users_are_looked_up_for_a_whole_host(host: Path) -> None:
    """A single file may be written before its user is made."""
    path = host / "services.d/web.yaml"
    path.write_text("name: web\nport: 8080\nuser: no-such-user\n")
    whole = ["--agent", host / "agent.yaml", "--services", host / "services.d"]
    assert validate(path).exit_code == 0
    assert validate("--users", path).exit_code == 2
    assert validate(*whole, "--no-users").exit_code == 0
    result = validate(*whole)
    assert result.exit_code == 2
    assert result.stderr.startswith(f'{path}:3: user: this host has no user "no-such-user".')


def test_files_named_together_are_checked_together(host: Path) -> None:
    other = host / "other.yaml"
    other.write_text("name: shop\nport: 8080\n")
    assert validate(other).exit_code == 0
    result = validate(host / "services.d/web.yaml", other)
    assert result.stderr.startswith(f"{other}:2: port: 8080 is taken by ")


def test_policies_of_a_directory(tmp_path: Path) -> None:
    """An entry in two files is a contradiction, .yml or .yaml."""
    (tmp_path / "a.yaml").write_text(POLICY)
    (tmp_path / "b.yml").write_text("Kind: service-defaults\nName: api\n")
    result = validate("--dir", tmp_path)
    assert result.stderr == (
        f"{tmp_path}/b.yml:1: service-defaults/api stands in {tmp_path}/a.yaml:2 already. "
        "Keep one of the two\n"
    )


def test_the_kind_can_be_said(tmp_path: Path) -> None:
    """A file that names nothing known is then told what it lacks."""
    path = tmp_path / "x.yaml"
    path.write_text("mode: strict\nhello: world\n")
    result = validate("--kind", "service", path)
    assert [line.split(": ", 1)[1] for line in result.stderr.splitlines()] == [
        "name: is missing. Add name",
        "port: is missing. Add port",
        (
            "hello: is not known here. Known keys: name, port, id, address, user, unit, protocol, "
            "mode, on_stop, tags, meta, checks, upstreams, weight, warning_weight, outbound_port, "
            "sidecar_port"
        ),
    ]


def test_problems_as_json(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("address: 192.0.2.5\nworkers: -1\n")
    result = validate("--json", path)
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "problems": [
            {
                "path": f"{path}:2: workers",
                "rule": "must be a number of workers, 0 (one per core) to 256, not -1",
                "remedy": "",
            }
        ]
    }
    path.write_text("address: 192.0.2.5\n")
    assert json.loads(validate("--json", path).stdout) == {"problems": []}


def test_an_empty_directory_is_valid(tmp_path: Path) -> None:
    assert validate("--services", tmp_path).exit_code == 0
