"""What begins a transaction through a pooler."""

from __future__ import annotations

import pytest

from proxy.config import parse_postgres_uri
from proxy.store.pool import session_settings
from proxy.store.pooler import beginning, startup_settings

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
OURS = {"TimeZone": "UTC", "DateStyle": "ISO, MDY", "extra_float_digits": "2"}
LOCAL = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in OURS.items())


def settings(query: str = "", *, read_only: bool = False) -> dict[str, str]:
    uri = parse_postgres_uri(f"postgresql://h/d?pgbouncer=true{query}")
    return session_settings(uri, read_only=read_only)


@pytest.mark.parametrize(
    ("read_only", "begin"), [(False, BEGIN), (True, f"{BEGIN} READ ONLY")], ids=["rw", "ro"]
)
def test_a_transaction_has_the_settings_of_a_session(read_only: bool, begin: str) -> None:
    assert beginning(settings(read_only=read_only)) == f"{begin}; SELECT {LOCAL}"


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("a%2C%20b", "'a, b'"),
        ("it%27s", "'it''s'"),
        ("back%5Cslash", " E'back\\\\slash'"),
        ("%27%29%3B%20DROP", "'''); DROP'"),
        ("%5C%27", " E'\\\\'''"),
    ],
)
def test_settings_of_the_uri_are_values_and_nothing_else(value: str, literal: str) -> None:
    given = settings(f"&options[search_path]={value}")
    assert f"SELECT set_config('search_path', {literal}, true), {LOCAL}" in beginning(given)


def test_only_what_every_pooler_follows_is_said_at_the_start() -> None:
    assert startup_settings(settings("&options[search_path]=a", read_only=True)) == {
        "application_name": "quickwit-metastore",
        "client_encoding": "UTF8",
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
    }
