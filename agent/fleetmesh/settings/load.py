"""Reads the host's files: Settings, or every problem in them."""

from __future__ import annotations

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
    """The settings of a host; a missing `services_dir` declares no services.

    With `resolve_uid` (edge.users.resolve) each service's user must exist on this host, be
    neither root nor the agent's, and belong to one service only.
    """
    directory = Path(services_dir)
    listed = _service_files(directory) if directory.exists() else []
    if isinstance(listed, Problem):
        return [listed]
    found = read_files(Path(agent_file), listed, resolve_uid)
    return found.problems or found.settings or [Problem(str(agent_file), "was not read")]


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
            if agent is not None and not reader.problems:
                rules.check_agent(agent, reader)
            if reader.problems:
                agent = None
    declared: list[Declared] = []
    for path in service_files:
        if path.suffix == ".yml":
            problems.append(
                Problem(str(path), "ends in .yml and would not be read", "Rename it to .yaml")
            )
            continue
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


def _service_files(directory: Path) -> list[Path] | Problem:
    """Files of `services.d`; hidden ones and other suffixes (backups of editors) are left out."""
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        return Problem(str(directory), f"cannot be read: {error.strerror}")
    return [
        path for path in paths if path.suffix in (SUFFIX, ".yml") and not path.name.startswith(".")
    ]
