"""Which server of a URI a pool is on, and the check that keeps every write on the primary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import asyncpg

from proxy import errors
from proxy.config import PostgresUri
from proxy.store import sqlstate
from proxy.store.pooler import connect
from proxy.store.refusals import describe
from proxy.store.servers import Server, Wanted, choose, look_at, refusal

# How long one server may take to say what it is; a server that hangs must not hold up the others.
SURVEY_BOUND: Final = 1.0

_log = logging.getLogger(__name__)


class RefusedServerError(asyncpg.InterfaceError):
    """The server that was connected to is not one to use; the message says why."""


class Election:
    """The choice among the servers of one URI.

    With one host there is nothing to choose, but a session is still checked where a primary is
    wanted. The highest timeline that was seen is remembered: a primary that was left behind by a
    promotion is not taken for one when it comes back.
    """

    def __init__(self, uri: PostgresUri, wanted: Wanted) -> None:
        self.uri = uri
        self.wanted = wanted
        self.current: Server | None = None

    @property
    def has_choice(self) -> bool:
        """Whether the URI names more than one server."""
        return len(self.uri.hosts) > 1

    def arguments(self, place: int | None) -> dict[str, Any]:
        """Return the driver's arguments for one server of the URI; None is the only one."""
        if place is None or not self.has_choice:
            return self.uri.connect_arguments()
        uri = replace(
            self.uri,
            hosts=(self.uri.hosts[place],),
            ports=(self.uri.ports[place],),
            # The choice is made here, of all servers at once.
            session_attrs=None,
        )
        return uri.connect_arguments()

    async def survey(self, settings: Mapping[str, str]) -> Server | None:
        """Return the server to use now, or None when the URI names only one.

        All servers are asked at once. `settings` are those of a session. `Connection` when none
        will do.
        """
        if not self.has_choice:
            return None
        found: list[Server] = []
        reasons: list[str] = []
        asked = [
            asyncio.create_task(self._ask(place, settings), name=f"survey-{place}")
            for place in range(len(self.uri.hosts))
        ]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    server = await answer
                except (TimeoutError, ValueError, *sqlstate.DRIVER_ERRORS) as error:
                    reasons.append(describe(self.uri, error))
                    continue
                found.append(server)
                if self._was_promoted(server):
                    # Nothing that the others may still say makes it less of a primary.
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        try:
            return choose(found, self.wanted, self.current)
        except errors.Connection as error:
            text = "; ".join([str(error), *reasons])
            raise errors.Connection(f"cannot connect to {self.uri.redacted}: {text}") from error

    async def _ask(self, place: int, settings: Mapping[str, str]) -> Server:
        async with asyncio.timeout(SURVEY_BOUND):
            connection = await connect(
                self.arguments(place),
                settings,
                by_transaction=self.uri.is_pooled,
                timeout=SURVEY_BOUND,
            )
            try:
                return await look_at(connection, place)
            finally:
                connection.terminate()

    def _was_promoted(self, server: Server) -> bool:
        known = self.current
        return (
            self.wanted is Wanted.PRIMARY
            and known is not None
            and not server.in_recovery
            and server.identity == known.identity
            and server.timeline > known.timeline
        )

    async def check(self, connection: asyncpg.Connection[asyncpg.Record], place: int) -> Server:
        """Return what a new session is on, once it may be used. `RefusedServerError` when not.

        Where no primary is wanted, any session may.
        """
        server, known = await look_at(connection, place), self.current
        if self.wanted is Wanted.PRIMARY and (reason := refusal(server, known)):
            is_same = known is not None and server.identity == known.identity
            if server.in_recovery or self.has_choice or (is_same and server.timeline):
                raise RefusedServerError(reason)
            if known is not None and is_same:
                # There is nothing to hold it against: the timeline that was known stays so.
                server = replace(server, timeline=known.timeline)
            else:
                # Restored or upgraded in its place: there is no other server that it could be.
                _log.warning(
                    "the database server is of another cluster than before",
                    extra={"uri": self.uri.redacted, "identity": server.identity},
                )
        if known is None or place == known.place:
            self.current = server
        return server
