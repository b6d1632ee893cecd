"""The statement that mends a missing right."""

from __future__ import annotations

import asyncpg
import pytest

from proxy.config import parse_postgres_uri
from proxy.store.grants import explain

CASES = {
    "permission denied for table kv": "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}",
    "permission denied for schema public": "GRANT USAGE ON SCHEMA public TO {}",
    "permission denied for sequence s": "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}",
    "permission denied for function f": "GRANT EXECUTE ON FUNCTION f() TO {}",
}


@pytest.mark.parametrize(
    ("uri", "user"),
    [
        ("postgresql://reader@h/d", "reader"),
        ("postgresql://Read%22er@h/d", '"Read""er"'),
    ],
)
@pytest.mark.parametrize("text", CASES)
def test_the_statement_is_told(text: str, uri: str, user: str) -> None:
    error = asyncpg.InsufficientPrivilegeError(text)
    told = explain(error, parse_postgres_uri(uri))
    assert told.startswith(f"{text}: run `{CASES[text].format(user)}` as ")


def test_who_writes_needs_more() -> None:
    uri = parse_postgres_uri("postgresql://writer@h/d")
    schema = asyncpg.InsufficientPrivilegeError("permission denied for schema public")
    assert "GRANT USAGE, CREATE ON SCHEMA public TO writer" in explain(schema, uri, "ALL")
    owner = asyncpg.InsufficientPrivilegeError("must be owner of table splits")
    assert explain(owner, uri).endswith(
        ": run `metastore-proxy migrate` as the user who owns the tables"
    )


@pytest.mark.parametrize("error", [ValueError("x"), asyncpg.UndefinedTableError("x")])
def test_other_errors_are_none_of_it(error: Exception) -> None:
    assert explain(error, parse_postgres_uri("postgresql://u@h/d")) == ""


def test_a_refusal_of_another_kind_is_shown_as_it_is() -> None:
    error = asyncpg.InsufficientPrivilegeError("permission denied to create role")
    uri = parse_postgres_uri("postgresql://u@h/d")
    assert explain(error, uri) == "permission denied to create role"
