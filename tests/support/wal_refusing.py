"""A database that refuses to tell positions in the WAL, as managed services do.

The server is ours, so that what refuses are functions of the same names put in the place of its
own, in one database: they raise what Aurora is reported to answer, on the servers where it does.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.postgres import Scratch

# Name, arguments, what it returns, and how its own is called.
_FUNCTIONS = (
    ("pg_last_wal_replay_lsn", "", "pg_lsn", "()"),
    ("pg_current_wal_lsn", "", "pg_lsn", "()"),
    ("pg_current_wal_insert_lsn", "", "pg_lsn", "()"),
    ("pg_walfile_name", "lsn pg_lsn", "text", "(lsn)"),
)


@dataclass(frozen=True)
class Refusal:
    """What a server answers, and on which of the pair: a SQL condition."""

    sqlstate: str
    message: str
    where: str


READER = Refusal(
    "0A000", "Function pg_last_wal_replay_lsn() is currently not supported", "pg_is_in_recovery()"
)
WRITER = Refusal("55000", "wal_level must be set to 'logical'", "NOT pg_is_in_recovery()")


async def refuse(scratch: Scratch, refusal: Refusal) -> None:
    """Have the functions on WAL positions raise where the condition holds."""
    for name, arguments, returns, call in _FUNCTIONS:
        # Not replaced but renamed: the server calls its own by their numbers.
        await scratch.execute(
            f"""
            ALTER FUNCTION pg_catalog.{name} RENAME TO own_{name};
            CREATE FUNCTION pg_catalog.{name}({arguments}) RETURNS {returns}
            LANGUAGE plpgsql VOLATILE AS $$
            BEGIN
                IF {refusal.where} THEN
                    RAISE EXCEPTION USING
                        ERRCODE = '{refusal.sqlstate}', MESSAGE = {_quoted(refusal.message)};
                END IF;
                RETURN own_{name}{call};
            END $$
            """
        )
    await scratch.pair.wait_caught_up()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
