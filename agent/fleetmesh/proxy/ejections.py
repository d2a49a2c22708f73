"""The judgement of a worker on its upstreams' endpoints, once a second: told in the journal, and
handed on to the host's other workers."""

from __future__ import annotations

import logging

from fleetmesh.core.table import Table
from fleetmesh.model.report import Ejection

_log = logging.getLogger(__name__)


def judge(table: Table, now: float) -> list[Ejection]:
    """Which endpoints were ejected since the last time and which are back."""
    found: list[Ejection] = []
    for (target, connect_timeout), outliers in table.outliers.items():
        outliers.tick(now)
        if not outliers.news:
            continue
        news, outliers.news = outliers.news, []
        for endpoint_id, reason, seconds in news:
            found.append(Ejection(target, connect_timeout, endpoint_id, reason, seconds))
            _tell(outliers.service, endpoint_id, reason, seconds)
    return found


def _tell(service: str, endpoint_id: str, reason: str, seconds: float) -> None:
    fields = {"event": "ejected" if reason else "returned", "endpoint": endpoint_id}
    fields["destination"] = service
    if reason:
        fields["reason"] = reason
        text = "%s: no requests to %s for %.1f s (%s)"
        _log.warning(text, service, endpoint_id, seconds, reason, extra={"fields": fields})
    else:
        _log.info("%s: %s is back", service, endpoint_id, extra={"fields": fields})
