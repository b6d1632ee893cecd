"""Reads of the rows of single indexes: the most frequent of small reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from proxy.store import sqlstate
from proxy.store.gathering import Gathering
from proxy.store.pool import Database
from proxy.store.queries import query

_NAME: Final = "indexes"


class IndexKey(NamedTuple):
    """An index by the UID of its incarnation, or the one that has an ID now."""

    text: str
    is_uid: bool


async def read(database: Database, key: IndexKey) -> Any:
    """Return `index_metadata_json` and `create_timestamp` of one index; None if there is none.

    Database errors pass through.
    """
    gathering = database.gatherings.get(_NAME)
    if gathering is None:
        gathering = database.gatherings[_NAME] = _gathering(database)
    return await gathering.read(key)


def _gathering(database: Database) -> Gathering[IndexKey, Any]:
    async def fetch(keys: Sequence[IndexKey]) -> Mapping[IndexKey, Any]:
        if len(keys) == 1:
            (key,) = keys
            sql = query("indexes/get_by_uid" if key.is_uid else "indexes/get_by_id")
            async with database.acquire() as session:
                row = await session.fetchrow(sql, key.text)
            return {} if row is None else {key: row}
        ids = [key.text for key in keys if not key.is_uid]
        uids = [key.text for key in keys if key.is_uid]
        async with database.acquire() as session:
            rows = await session.fetch(query("indexes/get_many"), ids, uids)
        found = {IndexKey(row["index_id"], is_uid=False): row for row in rows}
        return found | {IndexKey(row["index_uid"], is_uid=True): row for row in rows}

    return Gathering(fetch, sql=query("indexes/get_many"), blaming=sqlstate.OF_A_VALUE)
