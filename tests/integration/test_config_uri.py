"""What a URI asks for, against a real server: the node's own session settings always win."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from proxy.config import PoolSettings, parse_postgres_uri
from proxy.store.pool import Database
from tests.support.postgres import Scratch


@pytest.mark.parametrize(
    "options",
    [
        "options=" + quote("-c default_transaction_read_only=off -c TimeZone=Asia/Tokyo"),
        "options[default_transaction_read_only]=off&options[timezone]=Asia/Tokyo",
    ],
)
async def test_options_cannot_make_a_read_only_session_writable(
    fresh_database: Scratch, options: str
) -> None:
    text = f"{fresh_database.primary_uri}?{options}&options[work_mem]=9MB&sslmode=disable"
    database = Database(parse_postgres_uri(text), PoolSettings(), read_only=True)
    await database.open()
    try:
        async with database.acquire() as session:
            names = ("default_transaction_read_only", "TimeZone", "work_mem", "application_name")
            shown = [await session.fetchval(f"SHOW {name}") for name in names]
    finally:
        await database.close()
    assert shown == ["on", "UTC", "9MB", "quickwit-metastore"]
