from __future__ import annotations

import inspect
import ssl
from typing import Any
from urllib.parse import quote

import pytest
from asyncpg import connect_utils
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.config import REDACTED, ConfigError, PostgresUri, parse_postgres_uri

ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("postgresql://", {}),
    ("postgres:///db", {"database": "db"}),
    ("pg://h/db", {"host": ["h"], "database": "db"}),
    ("PostgreSQL://h", {"host": ["h"]}),
    ("postgresql://h:5433", {"host": ["h"], "port": [5433]}),
    ("postgresql://u@h", {"user": "u", "host": ["h"]}),
    ("postgresql://u:p@h", {"user": "u", "password": "p", "host": ["h"]}),
    ("postgresql://u:@h", {"user": "u", "host": ["h"]}),
    ("postgresql://:p@h", {"password": "p", "host": ["h"]}),
    ("postgresql://u:p@ss:w@h", {"user": "u", "password": "p@ss:w", "host": ["h"]}),
    (
        "postgresql://us%40er:p%3A%2F%25%23%3F@h/d%2Fb",
        {"user": "us@er", "password": "p:/%#?", "host": ["h"], "database": "d/b"},
    ),
    ("postgresql://u:100%@h", {"user": "u", "password": "100%", "host": ["h"]}),
    ("postgresql://u:caf%C3%A9@h", {"user": "u", "password": "café", "host": ["h"]}),
    ("postgresql://[::1]:6000/d", {"host": ["::1"], "port": [6000], "database": "d"}),
    ("postgresql://[::1]/d", {"host": ["::1"], "database": "d"}),
    ("postgresql://%2Fvar%2Frun/d", {"host": ["/var/run"], "database": "d"}),
    (
        "postgresql://u@%2Fsock:6000/d",
        {"user": "u", "host": ["/sock"], "port": [6000], "database": "d"},
    ),
    ("postgresql:///d?host=/sock&port=6000", {"host": ["/sock"], "port": [6000], "database": "d"}),
    ("postgresql://h:6000/d?host=/sock", {"host": ["/sock"], "port": [6000], "database": "d"}),
    ("postgresql://h/d?hostaddr=10.0.0.1", {"host": ["10.0.0.1"], "database": "d"}),
    ("postgresql://?host=::1", {"host": ["::1"]}),
    ("postgresql://?port=6000", {"port": 6000}),
    ("postgresql://a,b:2,c/d", {"host": ["a", "b", "c"], "port": [5432, 2, 5432], "database": "d"}),
    ("postgresql://a,b/d", {"host": ["a", "b"], "database": "d"}),
    ("postgresql://a,b/?port=1", {"host": ["a", "b"], "port": [1, 1]}),
    ("postgresql://a,b/?port=1,2", {"host": ["a", "b"], "port": [1, 2]}),
    ("postgresql://my_db-1.svc/d", {"host": ["my_db-1.svc"], "database": "d"}),
    (
        "postgresql://h?user=u&password=p&dbname=d",
        {"host": ["h"], "user": "u", "password": "p", "database": "d"},
    ),
    (
        "postgresql://a:b@h/c?user=u&password=p&dbname=d",
        {"host": ["h"], "user": "u", "password": "p", "database": "d"},
    ),
    ("postgresql://h?user=&dbname=&port=&host=", {"host": ["h"]}),
    ("postgresql://h?password=a+b%2B", {"host": ["h"], "password": "a b+"}),
    ("postgresql://h?sslmode=require", {"host": ["h"], "ssl": "require"}),
    ("postgresql://h?ssl-mode=VERIFY-FULL", {"host": ["h"], "ssl": "verify-full"}),
    ("postgresql://h?sslmode=", {"host": ["h"]}),
    (
        "postgresql://h?ssl-ca=/c%20a&ssl-cert=/b&sslkey=/k",
        {"host": ["h"], "dsn": "postgresql://?sslrootcert=%2Fc+a&sslcert=%2Fb&sslkey=%2Fk"},
    ),
    ("postgresql://h?ssl-root-cert=/c", {"host": ["h"], "dsn": "postgresql://?sslrootcert=%2Fc"}),
    ("postgresql://h?statement-cache-capacity=7", {"host": ["h"], "statement_cache_size": 7}),
    ("postgresql://h?statement-cache-capacity=0", {"host": ["h"], "statement_cache_size": 0}),
    ("postgresql://h?pgbouncer=true", {"host": ["h"], "statement_cache_size": 0}),
    ("postgresql://h?pgbouncer=false", {"host": ["h"]}),
    (
        "postgresql://h?pgbouncer=True&statement-cache-capacity=7",
        {"host": ["h"], "statement_cache_size": 0},
    ),
    ("postgresql://h?application_name=x", {"host": ["h"]}),
    (
        "postgresql://h?target_session_attrs=standby",
        {"host": ["h"], "target_session_attrs": "standby"},
    ),
]


@pytest.mark.parametrize(("text", "expected"), ARGUMENTS)
def test_connect_arguments(text: str, expected: dict[str, Any]) -> None:
    uri = parse_postgres_uri(text)
    assert uri.connect_arguments() == {"statement_cache_size": 100, **expected}
    assert uri.warnings == ()


@pytest.mark.parametrize(("text", "expected"), ARGUMENTS)
def test_a_redacted_uri_parses_to_the_same_but_the_password(
    text: str, expected: dict[str, Any]
) -> None:
    again = parse_postgres_uri(parse_postgres_uri(text).redacted).connect_arguments()
    expected = {"statement_cache_size": 100, **expected}
    if "password" in expected:
        assert again.pop("password") == REDACTED
        del expected["password"]
    if expected.get("port") == 6000:
        expected["port"] = [6000] if "host" in expected else 6000
    assert again == expected


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("pg://u:p@h:1/d", "postgresql://u:***redacted***@h:1/d"),
        ("postgres://h/d?password=p", "postgresql://:***redacted***@h/d"),
        ("postgres://a:b@h/d?password=p", "postgresql://a:***redacted***@h/d"),
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("postgres://pw-pw:pw-pw@h/d", "postgresql://***redacted***:***redacted***@h/d"),
        ("postgres://u:postgres@h/d", "postgresql://u:***redacted***@h/d"),
        ("postgres://u:red@h/d", "postgresql://u:***redacted***@h/d"),
        ("postgres://u:p@h/d?foo=hunter2&sslpassword=hunter2", "postgresql://u:***redacted***@h/d"),
        (
            "postgres://u%40x:pw0@[::1]:1,%2Fsock/d%2Fe",
            "postgresql://u%40x:***redacted***@[::1]:1,%2Fsock/d%2Fe",
        ),
        (
            "postgres://h?options[work_mem]=1MB&ssl-mode=require&ssl-ca=/a%20b",
            "postgresql://h?sslmode=require&sslrootcert=/a%20b&options[work_mem]=1MB",
        ),
    ],
)
def test_redacted(text: str, redacted: str) -> None:
    uri = parse_postgres_uri(text)
    assert uri.redacted == str(uri) == f"{uri}" == redacted
    assert repr(uri) == f"PostgresUri('{redacted}')"


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("postgresql://h", {}),
        ("postgresql://h?options[search_path]=a,b", {"search_path": "a,b"}),
        ("postgresql://h?options%5Bsearch_path%5D=a", {"search_path": "a"}),
        ("postgresql://h?options=-c%20geqo%3Doff", {"options": "-c geqo=off"}),
        ("postgresql://h?options=-c+geqo=off", {"options": "-c geqo=off"}),
        ("postgresql://h?options[a.b]=1&options[work_mem]=2MB", {"a.b": "1", "work_mem": "2MB"}),
    ],
)
def test_server_settings(text: str, settings: dict[str, str]) -> None:
    assert parse_postgres_uri(text).server_settings == settings


@pytest.mark.parametrize(
    "name", ["default_transaction_read_only", "TimeZone", "DATESTYLE", "application_name"]
)
def test_settings_of_the_node_cannot_be_overridden(name: str) -> None:
    uri = parse_postgres_uri(f"postgresql://h?options[{name}]=off")
    assert uri.server_settings == {}
    assert uri.warnings == (
        f"query parameter `options[{name}]` is ignored: the node sets it itself",
    )


def test_unknown_parameters_are_ignored_with_a_warning() -> None:
    uri = parse_postgres_uri("postgresql://h/d?foo=1&channel_binding=hunter2&" + "x" * 80 + "=1")
    assert uri.connect_arguments() == {"statement_cache_size": 100, "host": ["h"], "database": "d"}
    assert uri.server_settings == {}
    assert uri.warnings == (
        "unknown query parameter `foo` is ignored",
        "unknown query parameter `channel_binding` is ignored",
        "unknown query parameter a name of 80 characters (not shown) is ignored",
    )


INVALID = {
    "": "is not a PostgreSQL URI, it has no scheme: use `postgresql://user@host:5432/database`",
    "h/d": "it has no scheme",
    "postgresql:h/d": "it has no scheme",
    "mysql://h/d": "its scheme is `mysql`",
    "s3://b": "its scheme is `s3`",
    "://h": "it has no scheme",
    "postgresql://h:x/d": "its port is not a number from 1 to 65535",
    "postgresql://h:0/d": "its port is not a number from 1 to 65535",
    "postgresql://h:65536/d": "its port is not a number from 1 to 65535",
    "postgresql://h/d?port=x": "its port is not a number",
    "postgresql://h/d?port=1,2": "`port` lists 2 ports for 1 hosts",
    "postgresql://a,,b/d": "remove the extra comma",
    "postgresql://u:pa/ss@h/d": "it holds an `@` after a `/` or `?`",
    "postgresql://u:12/ss@h/d": "it holds an `@` after a `/` or `?`: percent-encode",
    "postgresql://u:12?s=s@h": "it holds an `@` after a `/` or `?`: percent-encode",
    "postgresql://u:12#ss@h/d": "it holds a `#`: percent-encode",
    "postgresql://u:p@h/d#x": "it holds a `#`",
    "postgresql://u:p w@h/d": "it holds a blank or a control character",
    "postgresql://h/d\n": "it holds a blank or a control character",
    "postgresql://u@h!/d": "its host is not a name, an address or a path",
    "postgresql://[::1/d": "is not `[IPv6 address]:port`",
    "postgresql://[h]/d": "is not `[IPv6 address]:port`",
    "postgresql://x:y:z/d": "its host holds more than one `:`",
    "postgresql://u:p%FF@h/d": "its password is not UTF-8 text",
    "postgresql://u%FF@h/d": "its user is not UTF-8 text",
    "postgresql://h/d%00": "its database is not UTF-8 text",
    "postgresql://h/d?user=%FF": "a query parameter is not UTF-8 text",
    "postgresql://h/d?password": "a query parameter has no `=`",
    "postgresql://h?sslmode=maybe": "its `sslmode` must be one of disable, allow, prefer, require",
    "postgresql://h?target_session_attrs=x": "its `target_session_attrs` must be one of any",
    "postgresql://h?pgbouncer=1": "its `pgbouncer` must be one of true, false",
    "postgresql://h?pgbouncer=true&options=-c%20a=b": "use `options[<name>]`",
    "postgresql://h?pgbouncer=true&target_session_attrs=any": "the pooler chooses",
    "postgresql://h?statement-cache-capacity=-1": "its `statement-cache-capacity` must be a number",
}


@pytest.mark.parametrize(("text", "expected"), INVALID.items())
def test_invalid(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_postgres_uri(text, key="metastore_uri")
    message = str(caught.value)
    assert "`metastore_uri`" in message
    assert expected in message
    assert not any(part in message for part in ("ss@", "12", "pa/", "maybe"))


def test_equal_uris_share_a_pool_and_spelling_does_not_matter() -> None:
    one = parse_postgres_uri("pg://u:p%61ss@h/d?unknown=1")
    two = parse_postgres_uri("postgresql://u:pass@h/d")
    assert one == two
    assert hash(one) == hash(two)
    assert one != parse_postgres_uri("postgresql://u:other@h/d")


def test_redact_replaces_every_spelling() -> None:
    uri = parse_postgres_uri("postgresql://u:p%40s%2Fs%22@h/d")
    text = r"""p@s/s" p%40s%2Fs%22 p%40s%2fs%22 p%40s/s%22 p@s/s\" other"""
    assert uri.redact(text) == " ".join([REDACTED] * 5) + " other"
    assert uri.redact(uri.redact(text)) == uri.redact(text)
    assert parse_postgres_uri("postgresql://h").redact("p@s") == "p@s"


def test_both_passwords_of_a_uri_are_secret() -> None:
    uri = parse_postgres_uri("postgresql://u:first-pw@h/d?password=second-pw")
    assert uri.redact("first-pw second-pw") == f"{REDACTED} {REDACTED}"


@given(
    password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=6),
    in_query=st.booleans(),
)
def test_a_password_survives_parsing_and_never_shows(password: str, in_query: bool) -> None:
    assume(password not in f"PostgresUri('postgresql://user:{REDACTED}@host/db')")
    encoded = quote(password, safe="")
    text = (
        f"postgresql://user@host/db?password={encoded}"
        if in_query
        else f"postgresql://user:{encoded}@host/db"
    )
    uri = parse_postgres_uri(text)
    assert uri.password == password
    assert uri.redacted == f"postgresql://user:{REDACTED}@host/db"
    for shown in (str(uri), repr(uri), uri.redact(text), uri.redact(f"x{password}y{password!r}")):
        assert password not in shown
        assert encoded not in shown


@given(st.text(st.characters(codec="ascii"), min_size=6), st.sampled_from("/?#@:% \n&=+[],"))
def test_a_raw_password_is_parsed_or_refused_but_never_shown(noise: str, special: str) -> None:
    secret = "Hunter2" + special + noise + special + "Xyzzy99"
    try:
        uri = parse_postgres_uri(f"postgresql://user:{secret}@host/db")
    except ConfigError as error:
        shown = str(error)
    else:
        shown = f"{uri} {uri!r} {uri.warnings}"
    assert "Hunter2" not in shown
    assert "Xyzzy99" not in shown


def resolve(uri: PostgresUri) -> tuple[list[Any], Any]:
    """Let the driver resolve its arguments, as `asyncpg.connect` does, without connecting."""
    arguments = uri.connect_arguments()
    arguments.pop("statement_cache_size")
    parse = vars(connect_utils)["_parse_connect_dsn_and_args"]
    addresses, parameters = parse(
        **{name: arguments.get(name) for name in inspect.signature(parse).parameters}
    )
    return addresses, parameters


def test_the_driver_takes_the_arguments_and_fills_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "env-host",
        "PGPORT": "6543",
        "PGUSER": "env-user",
        "PGPASSWORD": "env-pw",
        "PGDATABASE": "env-db",
    }.items():
        monkeypatch.setenv(name, value)
    addresses, parameters = resolve(parse_postgres_uri("postgresql://"))
    assert addresses == [("env-host", 6543)]
    assert (parameters.user, parameters.password) == ("env-user", "env-pw")
    assert parameters.database == "env-db"
    addresses, parameters = resolve(parse_postgres_uri("postgresql://u:p@h/d"))
    assert addresses == [("h", 6543)]
    assert (parameters.user, parameters.password, parameters.database) == ("u", "p", "d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://a:1,b/d", [("a", 1), ("b", 5432)]),
        ("postgresql://[::1]:9/d", [("::1", 9)]),
        ("postgresql:///d?host=/sock&port=7", ["/sock/.s.PGSQL.7"]),
    ],
)
def test_addresses_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: list[Any]
) -> None:
    monkeypatch.delenv("PGPORT", raising=False)
    assert resolve(parse_postgres_uri(text))[0] == expected


def test_ssl_modes_reach_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert resolve(parse_postgres_uri("postgresql://h?sslmode=disable"))[1].ssl is False
    assert resolve(parse_postgres_uri("postgresql://h"))[1].sslmode.name == "prefer"
    _, required = resolve(parse_postgres_uri("postgresql://h?sslmode=require"))
    assert required.ssl.verify_mode is ssl.CERT_NONE
    missing = tmp_path / "missing.pem"
    with pytest.raises(FileNotFoundError):
        resolve(parse_postgres_uri(f"postgresql://h?sslmode=verify-ca&sslrootcert={missing}"))
