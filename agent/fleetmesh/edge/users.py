"""Users and systemd units: whose connections carry a service's identity."""

from __future__ import annotations

import pwd
import subprocess

from fleetmesh.settings import ServiceSettings

SYSTEMCTL_TIMEOUT = 5.0


class UnknownUserError(Exception):
    """A service's user or unit does not resolve to a user of this host."""


def uid_of(service: ServiceSettings) -> int | None:
    """The uid whose outbound connections are `service`'s; None when it is only called.

    Raises UnknownUserError.
    """
    if service.unit is not None:
        return _unit_uid(service.unit)
    if service.user is not None:
        return _user_uid(service.user)
    return None


def resolve(service: ServiceSettings) -> int | str | None:
    """`uid_of` as settings.load wants it: a sentence in the place of the exception."""
    try:
        return uid_of(service)
    except UnknownUserError as error:
        return str(error)


def _user_uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UnknownUserError(f'this host has no user "{name}"') from None


def _unit_uid(unit: str) -> int:
    """The uid of a unit's User=; that of a DynamicUser= exists only while the unit runs."""
    shown = _show(unit)
    if shown.get("LoadState") != "loaded":
        raise UnknownUserError(f'systemd has no unit "{unit}"')
    user = shown.get("User", "")
    if shown.get("DynamicUser") != "yes":
        return int(user) if user.isdecimal() else _user_uid(user or "root")
    uid = shown.get("UID", "")
    if not uid.isdecimal():
        raise UnknownUserError(f'unit "{unit}" has a dynamic user and is not running')
    return int(uid)


def _show(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", "--property=LoadState,User,DynamicUser,UID", "--", unit]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownUserError(f'systemd was not asked for unit "{unit}": {error}') from error
    if done.returncode != 0:
        raise UnknownUserError(f'systemd does not tell of unit "{unit}": {done.stderr.strip()}')
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
