"""From a user or a unit to a uid."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from fleetmesh.edge import users
from fleetmesh.settings import ServiceSettings

NOBODY = pwd.getpwnam("nobody").pw_uid


def service(user: str | None = None, unit: str | None = None) -> ServiceSettings:
    return ServiceSettings("a", 80, user=user, unit=unit)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that says what the file beside it holds."""
    answer = tmp_path / "answer"
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\n[ "$5" = "" ] && [ "$4" = app.service ] && cat {answer}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return answer


def test_a_user() -> None:
    assert users.uid_of(service(user="nobody")) == NOBODY
    assert users.resolve(service(user="no-such-user")) == 'this host has no user "no-such-user"'


def test_a_service_that_calls_nobody() -> None:
    assert users.uid_of(service()) is None


@pytest.mark.parametrize(
    ("answer", "uid"),
    [
        ("LoadState=loaded\nUser=nobody\nDynamicUser=no\nUID=[not set]\n", NOBODY),
        ("LoadState=loaded\nUser=1234\nDynamicUser=no\nUID=1234\n", 1234),
        ("LoadState=loaded\nUser=\nDynamicUser=no\nUID=[not set]\n", 0),
        ("LoadState=loaded\nUser=app\nDynamicUser=yes\nUID=62001\n", 62001),
        (
            "LoadState=loaded\nUser=app\nDynamicUser=yes\nUID=[not set]\n",
            'unit "app.service" has a dynamic user and is not running',
        ),
        ("LoadState=not-found\nUser=\n", 'systemd has no unit "app.service"'),
    ],
)
def test_a_unit(systemctl: Path, answer: str, uid: int | str) -> None:
    """Its User=, root without one, a dynamic one while it runs."""
    systemctl.write_text(answer)
    assert users.resolve(service(unit="app.service")) == uid


def test_a_host_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = users.resolve(service(unit="app.service"))
    assert isinstance(found, str)
    assert found.startswith('systemd was not asked for unit "app.service": ')
