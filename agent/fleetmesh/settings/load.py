"""Reads the host's files: Settings, or every problem in them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from fleetmesh.model.problem import Problem
from fleetmesh.settings import ServiceSettings, Settings, checks, document, rules
from fleetmesh.settings.decode import Reader
from fleetmesh.settings.rules import Declared, ResolveUid

SUFFIX = ".yaml"


def load(
    agent_file: Path | str, services_dir: Path | str, resolve_uid: ResolveUid | None = None
) -> Settings | list[Problem]:
    """The settings of a host. A missing `services_dir` is a problem: were it taken for an empty
    one, a slip of the hand would deregister every service.

    With `resolve_uid` (edge.users.resolve) each service's user must exist on this host, be
    neither root nor the agent's, and belong to one service only.
    """
    directory = Path(services_dir)
    listing = list_dir(directory)
    found = read_files(Path(agent_file), listing.files, resolve_uid)
    problems = found.problems + listing.problems
    return problems or found.settings or [Problem(str(agent_file), "was not read")]


class Found(msgspec.Struct):
    """What a set of files says. `settings` is None when no agent file was given or read."""

    settings: Settings | None
    problems: list[Problem]


def read_files(
    agent_file: Path | None,
    service_files: Sequence[Path],
    resolve_uid: ResolveUid | None = None,
) -> Found:
    """Checks the files each by itself and together, as one host would have them."""
    problems: list[Problem] = []
    readers: list[Reader] = []
    agent: Settings | None = None
    if agent_file is not None:
        opened = _open(agent_file)
        if isinstance(opened, Problem):
            problems.append(opened)
        else:
            reader, node = opened
            readers.append(reader)
            agent = reader.struct(node, Settings)
            if agent is not None:
                rules.check_agent(agent, reader)
            if reader.problems:
                agent = None
    declared: list[Declared] = []
    for path in service_files:
        opened = _open(path)
        if isinstance(opened, Problem):
            problems.append(opened)
            continue
        reader, node = opened
        readers.append(reader)
        service = _service(reader, node)
        if service is not None:
            declared.append(Declared(service, reader))
    rules.check_together(agent, declared, resolve_uid)
    problems += [problem for reader in readers for problem in reader.problems]
    if agent is not None:
        services = tuple(item.service for item in declared)
        agent = msgspec.structs.replace(agent, services=services)
    return Found(agent, problems)


def _service(reader: Reader, node: yaml.MappingNode) -> ServiceSettings | None:
    service = reader.struct(node, ServiceSettings)
    if service is None:
        return None
    normal = tuple(
        checks.normalise(reader, f"checks[{index}]", definition)
        for index, definition in enumerate(service.checks)
    )
    service = msgspec.structs.replace(service, checks=normal, file=reader.file)
    rules.check_service(service, reader)
    return service


def _open(path: Path) -> tuple[Reader, yaml.MappingNode] | Problem:
    text = document.read_text(path)
    if isinstance(text, Problem):
        return text
    node = document.compose(text, str(path))
    return node if isinstance(node, Problem) else (Reader(str(path)), node)


class Listing(msgspec.Struct, frozen=True):
    files: list[Path]
    problems: list[Problem]


def list_dir(directory: Path, suffixes: Sequence[str] = (SUFFIX,)) -> Listing:
    """The files of a directory that would be read; hidden ones and other suffixes (backups of
    editors) are left out, but `.yml` is told, for its writer believes that it counts."""
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        if error.errno == errno.EACCES:
            rule = f"cannot be read: {error.strerror}"
            return Listing([], [Problem(str(directory), rule, "Run it as root")])
        rule = "does not exist" if error.errno == errno.ENOENT else f"{error.strerror}".lower()
        remedy = "Name a directory; an empty one declares no services"
        return Listing([], [Problem(str(directory), rule, remedy)])
    misnamed = [
        Problem(str(path), "ends in .yml and would not be read", "Rename it to .yaml")
        for path in paths
        if path.suffix == ".yml" and ".yml" not in suffixes
    ]
    return Listing([path for path in paths if path.suffix in suffixes], misnamed)
