"""How old splits are by the clock of the database."""

from __future__ import annotations

from datetime import datetime

from tests.support.access import Metastore

EPOCH = datetime.fromisoformat("1970-01-01 00:00:00")  # columns have no zone


async def database_now(metastore: Metastore) -> datetime:
    now = await metastore.sql.fetchval("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
    assert isinstance(now, datetime)
    return now


async def age(metastore: Metastore) -> None:
    """Move all times of splits a minute into the past, so that "now" is seen to be written."""
    await metastore.sql.execute(
        """
        UPDATE splits SET
            create_timestamp = create_timestamp - interval '1 minute',
            update_timestamp = update_timestamp - interval '1 minute',
            publish_timestamp = publish_timestamp - interval '1 minute'
        """
    )
