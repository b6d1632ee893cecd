"""What a client has written and seen, and what its calls therefore need."""

from __future__ import annotations

from dataclasses import dataclass

from proxy import errors
from proxy.client.answers import Metadata, Served
from proxy.routing import consistency as names
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import Consistency, Level, Need, Token, parse_lsn
from proxy.routing.members import Backend, BackendRole
from proxy.routing.selection import Route, may_use_replica

# Said to each backend in its own way, whatever the caller's metadata held.
_OURS = frozenset({names.MAX_LAG, names.MIN_LSN, names.CONSISTENCY, names.WANT_LSN})


@dataclass(frozen=True, slots=True)
class Terms:
    """What one call needs, whether its answer must tell a position, and what it carries on."""

    need: Need
    wants_lsn: bool
    is_monotonic: bool
    metadata: Metadata

    def metadata_for(self, rpc: Rpc, backend: Backend) -> Metadata:
        """Return the metadata for an attempt.

        A replica's lag is the router's to judge, and it has: the node must then not pass the call
        on to another, of which that is not known. What a primary is taken for may be another
        router, which has to be told.
        """
        need, found = self.need, [*self.metadata]
        if need.min_lsn is not None and rpc.is_read:
            found.append((names.MIN_LSN, names.format_lsn(need.min_lsn)))
        on_replicas = may_use_replica(rpc, allow_replica=need.allow_replica)
        if backend.role is BackendRole.PRIMARY and on_replicas:
            if need.primary_only:
                found.append((names.CONSISTENCY, "primary"))
            elif need.max_lag is not None:
                found.append((names.MAX_LAG, names.format_seconds(need.max_lag)))
        is_passed_on = any(key == names.FORWARDED for key, _ in found)
        if backend.role is BackendRole.REPLICA and need.max_lag is not None and not is_passed_on:
            found.append((names.FORWARDED, "client"))
        if self.wants_lsn:
            found.append((names.WANT_LSN, "true"))
        return found


class Session:
    """Keeps the client's tokens. `consistency` and `max_lag` are the client's own."""

    def __init__(self, consistency: Consistency, max_lag: float | None) -> None:
        self._consistency = consistency
        self.max_lag = max_lag
        self._written = Token()
        self._seen = Token()

    def terms(
        self, rpc: Rpc, metadata: Metadata, consistency: Consistency | None, min_lsn: str | None
    ) -> Terms:
        """Return what a call needs now. `InvalidArgument` for metadata or a token that is none."""
        wishes = names.read_wishes(metadata)
        level = wishes.consistency or consistency or self._consistency
        is_monotonic = level.level is Level.MONOTONIC
        token = self._seen if is_monotonic else self._written
        need = names.resolve(
            wishes,
            consistency=level,
            max_lag=self.max_lag,
            min_lsn=None if min_lsn is None else _position(min_lsn),
            token=token,
        )
        is_unproven = level.keeps_token and token.is_unproven
        return Terms(
            need,
            wishes.want_lsn or is_monotonic or is_unproven or not rpc.is_read,
            is_monotonic,
            [(key, value) for key, value in metadata if key not in _OURS],
        )

    def answered(self, rpc: Rpc, terms: Terms, backend: Backend, served: Served) -> None:
        """Take note of an answer."""
        lsn = None if served.lsn is None else parse_lsn(served.lsn)
        # What is taken for a primary may be a router, and the answer a replica's.
        by_primary = served.route in (Route.PRIMARY.value, Route.FALLBACK.value)
        is_primary = backend.role is BackendRole.PRIMARY and by_primary
        if not rpc.is_read:
            self._written = self._written.after(lsn, is_primary=is_primary)
        elif is_primary and lsn is not None and self._written.is_unproven:
            self._written = self._written.after(lsn, is_primary=True)
        if terms.is_monotonic or not rpc.is_read:
            self._seen = self._seen.after(lsn, is_primary=is_primary)

    def broke_off(self, terms: Terms) -> None:
        """Take note that part of an answer was seen whose position never came."""
        if terms.is_monotonic:
            self._seen = self._seen.after(None, is_primary=False)


def _position(text: str) -> int:
    lsn = parse_lsn(text)
    if lsn is None:
        raise errors.InvalidArgument(
            f"option `min_lsn` must be a WAL position like `16/B374D848`, got {text[:64]!r}"
        )
    return lsn
