"""The servers that a URI names, and which of them to use: the primary, or a standby.

Facts: `pg_is_in_recovery()` is true on a standby; a promotion begins a timeline with a higher
number, so that of two servers that take writes the one with the higher timeline is the primary
and the other one was left behind; a server and its physical copies share a system identifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import asyncpg

from proxy import errors
from proxy.config import PostgresUri
from proxy.store.positions import read_position


class Wanted(Enum):
    """What a pool needs of its server.

    ANY the first that answers; PRIMARY one that takes writes, and no other; PREFER_STANDBY a
    standby, or failing that a primary; STANDBY a standby, and no other.
    """

    ANY = "any"
    PRIMARY = "primary"
    PREFER_STANDBY = "prefer-standby"
    STANDBY = "standby"


# What `target_session_attrs` of a URI asks for. A session of ours is read-only or not whatever the
# server's default is, so that only the recovery counts.
_SESSION_ATTRS: Final = {
    "any": Wanted.ANY,
    "primary": Wanted.PRIMARY,
    "read-write": Wanted.PRIMARY,
    "standby": Wanted.STANDBY,
    "read-only": Wanted.STANDBY,
    "prefer-standby": Wanted.PREFER_STANDBY,
}


@dataclass(frozen=True, slots=True)
class Server:
    """One server as it was when last looked at. `place` is its position among the URI's hosts.

    A timeline of 0 and an empty identity are unknown. `incarnation` tells one run of one server
    from every other.
    """

    place: int
    in_recovery: bool
    timeline: int
    identity: str
    incarnation: str = ""


def wanted_by(uri: PostgresUri, default: Wanted) -> Wanted:
    """Return what the URI's `target_session_attrs` asks for; `default` when it says nothing."""
    if uri.session_attrs is None or default is Wanted.PRIMARY:
        return default
    return _SESSION_ATTRS[uri.session_attrs]


def choose(servers: Sequence[Server], wanted: Wanted, known: Server | None = None) -> Server:
    """Return the server to use, of those that answered.

    `known` is the one in use, or used last: it is kept while no other is better. A server that
    takes writes on a lower timeline than `known`, or in another cluster, is never chosen as the
    primary: what is written to it would be lost. `Connection` when none will do, saying why.
    """
    ranked = sorted(servers, key=lambda s: (known is None or s.place != known.place, s.place))
    if wanted is Wanted.PRIMARY:
        return _primary(ranked, known)
    standbys = [server for server in ranked if server.in_recovery]
    if wanted is Wanted.PREFER_STANDBY:
        ranked = standbys or ranked
    elif wanted is Wanted.STANDBY:
        ranked = standbys
    if not ranked:
        raise errors.Connection(
            "no server is a standby" if servers else "no server of the URI answers"
        )
    return ranked[0]


def refusal(server: Server, known: Server | None) -> str | None:
    """Return why a server must not be taken for the primary; None when it may be.

    `known` is the last primary there was.
    """
    if server.in_recovery:
        return (
            "the server is a standby in recovery: point `metastore_uri` at the primary, or wait "
            "for its promotion"
        )
    if known is None:
        return None
    if server.identity != known.identity:
        return "the server that takes writes belongs to another cluster than the one before"
    if server.timeline == 0 < known.timeline:
        return (
            "the server that takes writes does not tell its timeline, which was "
            f"{known.timeline} before: it may have been left behind by a promotion"
        )
    if server.timeline < known.timeline:
        return (
            f"the server that takes writes is on timeline {server.timeline}, which was left behind "
            f"for {known.timeline}: rewind it, or wait for the new primary"
        )
    return None


def _primary(servers: Sequence[Server], known: Server | None) -> Server:
    fit = [server for server in servers if refusal(server, known) is None]
    if not fit:
        reasons = [refusal(server, known) for server in servers]
        # A server that takes writes has more to say than a standby.
        reasons.sort(key=lambda reason: "standby" in (reason or ""))
        raise errors.Connection(next(iter(reasons), None) or "no server of the URI answers")
    if len({server.identity for server in fit}) > 1:
        raise errors.Connection(
            "the hosts of the URI belong to different clusters: name one primary and its standbys"
        )
    # The first of as high a timeline: the one in use, or the first of the URI.
    return max(fit, key=lambda server: server.timeline)


async def look_at(connection: asyncpg.Connection[asyncpg.Record], place: int) -> Server:
    """Ask a server what it is."""
    told = await read_position(connection)
    return Server(
        place, told.in_recovery, told.timeline or 0, told.identity or "", told.incarnation
    )
