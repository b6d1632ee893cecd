"""What a look at a node's database shows to be amiss though the node serves."""

from __future__ import annotations

import logging
from typing import Final

from proxy.server.readiness import Readiness
from proxy.store import grants
from proxy.store.observer import Look
from proxy.store.pool import Database

log = logging.getLogger(__name__)

_LOST_BY_PRIMARY: Final = (
    "writes answer no token and routers cannot tell the age of replicas: reads that must see a "
    "write, or have a bound, go to the primary"
)
_LOST_BY_REPLICA: Final = (
    "reads with a token, monotonic ones and, through routers, those with a bound go to the "
    "primary; this node tells the age of its data by the heartbeat alone"
)


class LookNotes:
    """Logs what changed between two looks, once each; what lasts is a warning of the readiness."""

    def __init__(
        self, database: Database, readiness: Readiness, condition: str, *, is_primary: bool
    ) -> None:
        self._database = database
        self._readiness = readiness
        self._condition = condition
        self._is_primary = is_primary

    def compare(self, before: Look | None, look: Look) -> None:
        """Take note of a look; `before` is the one before it."""
        if look.is_elsewhere and (before is None or not before.is_elsewhere):
            log.warning(
                "database sessions are on different servers, so that the age of the data is "
                "unknown: give each node a URI that names one server",
                extra={"uri": self._database.uri.redacted},
            )
        self._compare_refusals(look)
        if not look.identity and (before is None or before.identity):
            log.warning(
                "the server does not tell this node whose copy it is: routers take the age of its "
                "data for unknown",
                extra={"remedy": grants.control_grant(self._database.uri)},
            )
        if not self._is_primary and not look.in_recovery and (before is None or before.in_recovery):
            log.warning(
                "the replica's database is not in recovery: it was promoted, or the URI names a "
                "primary; its reads load that primary",
                extra={"uri": self._database.uri.redacted},
            )

    def _compare_refusals(self, look: Look) -> None:
        if look.is_elsewhere:
            return
        warnings = self._readiness.warnings
        if not look.refusal:
            if warnings.pop(self._condition, None) is not None:
                log.info("the database tells its position in the WAL again")
            return
        lost = _LOST_BY_PRIMARY if self._is_primary else _LOST_BY_REPLICA
        text = f"the database does not tell its position in the WAL ({look.refusal}): {lost}"
        if self._condition not in warnings:
            log.warning(text, extra={"uri": self._database.uri.redacted})
        warnings[self._condition] = text
