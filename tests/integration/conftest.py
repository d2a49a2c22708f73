from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.consul import ConsulServer, running_consul


@pytest.fixture(scope="module")
def consul_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    """A Consul 1.8.7 server of the module's own, empty at its start."""
    with running_consul(tmp_path_factory.mktemp("consul")) as server:
        yield server
