"""Translation of database errors into metastore errors; the one place that knows SQLSTATEs.

Facts: Quickwit reports unexpected database errors in two styles. RPCs of style MAP give foreign
key, uniqueness and read-only violations a variant of their own; RPCs of style RAW wrap every
error into `Db` with a prefix. We depart in one point that no client depends on: a write on a
read-only session is `Forbidden` in both styles, so that it is not retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from proxy import errors

FOREIGN_KEY_VIOLATION: Final = "23503"
UNIQUE_VIOLATION: Final = "23505"
READ_ONLY_TRANSACTION: Final = "25006"
# A NUL character in a text value: PostgreSQL cannot store it.
CHARACTER_NOT_IN_REPERTOIRE: Final = "22021"
# The same inside a JSON string that becomes text.
UNTRANSLATABLE_CHARACTER: Final = "22P05"

RAW_PREFIX: Final = "error returned from database: "
READ_ONLY_MESSAGE: Final = "cannot issue write request on a read-only replica"

# What the driver raises when the server cannot be reached or the connection breaks.
# `InternalClientError` is how asyncpg meets a session that the server ended while it was idle in
# a transaction: the farewell left its protocol in a state that takes no further statement.
DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
)

# Of these, what a value in a row can make of a statement: a conversion that fails. An infinite
# timestamp that is to be a number is "not supported".
OF_A_VALUE: Final = (asyncpg.DataError, asyncpg.FeatureNotSupportedError)

# Of these, what a server that went away, or is about to come, makes of a statement.
LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
)


def translate(
    error: BaseException, *, index_id: str | None = None, raw: bool = False
) -> errors.MetastoreError:
    """Return the metastore error for a driver error.

    `index_id` names the index of the request for the MAP style; `raw` selects the RAW style.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return errors.Db(_driver_text(error))
    state, message = error.sqlstate, error.args[0] if error.args else str(error)
    if state == READ_ONLY_TRANSACTION:
        return errors.Forbidden(f"{READ_ONLY_MESSAGE}: {message}")
    if state in (CHARACTER_NOT_IN_REPERTOIRE, UNTRANSLATABLE_CHARACTER):
        return errors.InvalidArgument(f"a text value of the request cannot be stored: {message}")
    if raw:
        return errors.Db(f"{RAW_PREFIX}{message}")
    if state == FOREIGN_KEY_VIOLATION and index_id is not None:
        return errors.NotFound(errors.index(index_id))
    if state == UNIQUE_VIOLATION:
        if index_id is not None and (error.table_name or "").startswith("indexes"):
            return errors.AlreadyExists(errors.index(index_id))
        return errors.Internal("unique key violation", f"DB error {message}")
    return errors.Db(message)


@contextmanager
def mapped(index_id: str | None = None) -> Iterator[None]:
    """Translate driver errors raised inside, in the MAP style."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, index_id=index_id) from error


@contextmanager
def raw() -> Iterator[None]:
    """Translate driver errors raised inside, in the RAW style."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, raw=True) from error


def _driver_text(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "the database did not answer in time"
    if isinstance(error, asyncpg.InternalClientError):
        return "the database ended the connection"
    return str(error) or type(error).__name__
