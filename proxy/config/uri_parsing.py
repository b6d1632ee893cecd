"""Parsing the URI of a PostgreSQL database.

Facts: schemes `postgres`, `postgresql` and `pg`, the query parameters with their aliases and the
text that stands for a password are Quickwit's; a parameter in the query overrides the same fact in
the part before it. `PG*` variables and the password file fill gaps: the driver reads them for
everything that a URI leaves out. Ours in addition: several hosts, `target_session_attrs`, and
`pgbouncer`, by which Prisma's users know it.

No message of this module holds any part of a URI that a mistyped password could have leaked into.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import parse_qsl, unquote

from proxy.config.problems import ConfigError, quoted
from proxy.config.redact import secret_forms
from proxy.config.uri import DEFAULT_STATEMENT_CACHE, SSL_FILES, PostgresUri

SCHEMES: Final = ("postgresql", "postgres", "pg")

_ALIASES: Final = {
    "ssl-mode": "sslmode",
    "ssl-root-cert": "sslrootcert",
    "ssl-ca": "sslrootcert",
    "ssl-cert": "sslcert",
    "ssl-key": "sslkey",
    "hostaddr": "host",
}
_PARAMETERS: Final = {
    "sslmode",
    *SSL_FILES,
    "statement-cache-capacity",
    "pgbouncer",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
}
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRS: Final = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
# Settings that every session of the node has; a URI cannot change them.
_FIXED_SETTINGS: Final = {
    "application_name",
    "timezone",
    "datestyle",
    "client_encoding",
    "extra_float_digits",
    "default_transaction_isolation",
    "default_transaction_read_only",
}
_OPTION: Final = re.compile(r"options\[([A-Za-z_][A-Za-z0-9_.]*)\]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,31}")
_ENCODE_HINT: Final = (
    "percent-encode special characters in the user, password and database "
    "(`@` is %40, `/` is %2F, `:` is %3A, `?` is %3F, `#` is %23, `%` is %25)"
)


def scheme_of(text: str) -> str:
    """Return the scheme of a URI in lower case; `file` when there is none, "" when it is odd."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        return "file"
    return scheme.lower() if _SCHEME.fullmatch(scheme) else ""


def parse_postgres_uri(text: str, *, key: str = "uri") -> PostgresUri:
    """Parse a PostgreSQL URI.

    `ConfigError` when it is not one; the message names `key`, says why, and shows no part of the
    URI but its scheme.
    """
    scheme = scheme_of(text)
    if scheme not in SCHEMES:
        found = f"its scheme is `{scheme}`" if "://" in text and scheme else "it has no scheme"
        raise ConfigError(
            f"`{key}` is not a PostgreSQL URI, {found}: use `postgresql://user@host:5432/database`"
        )
    problem = ""
    try:
        return _Parser().parse(text.partition("://")[2])
    except _Invalid as error:
        problem = str(error)
    raise ConfigError(f"`{key}` does not parse as a PostgreSQL URI: {problem}")


class _Invalid(Exception):
    """A text that is no URI; the message holds no part of it."""


class _Parser:
    """The state of one parse: facts by name, the password's spellings, warnings."""

    def __init__(self) -> None:
        self.user: str | None = None
        self.password: str | None = None
        self.database: str | None = None
        self.hosts: list[str] = []
        self.ports: list[int | None] = []
        self.query: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.secrets: set[str] = set()
        self.warnings: list[str] = []

    def parse(self, rest: str) -> PostgresUri:
        if any(char.isspace() or not char.isprintable() for char in rest):
            raise _Invalid(f"it holds a blank or a control character: {_ENCODE_HINT}")
        if "#" in rest:
            raise _Invalid(f"it holds a `#`: {_ENCODE_HINT}")
        front, _, query = rest.partition("?")
        authority, slash, path = front.partition("/")
        if "@" in path or ("@" in query and "@" not in authority and not slash):
            raise _Invalid(f"it holds an `@` after a `/` or `?`: {_ENCODE_HINT}")
        self._authority(authority)
        if database := _decoded(path.lstrip("/"), "database"):
            self.database = database
        self._query(query)
        return self._result()

    def _authority(self, authority: str) -> None:
        userinfo, _, hostlist = authority.rpartition("@")
        user, colon, password = userinfo.partition(":")
        if user:
            self.user = _decoded(user, "user")
        if colon and password:
            self._password(_decoded(password, "password"), password)
        if hostlist:
            self._hosts(hostlist, encoded=True)

    def _hosts(self, hostlist: str, *, encoded: bool) -> None:
        hosts, ports = [], []
        for item in hostlist.split(","):
            host, port = _host_and_port(item)
            host = _decoded(host, "host") if encoded else host
            if not host and "," in hostlist:
                raise _Invalid("a host in its list is empty: remove the extra comma")
            if host and not _is_host(host):
                raise _Invalid(f"its host is not a name, an address or a path; {_ENCODE_HINT}")
            hosts.append(host)
            ports.append(None if port is None else _port(port))
        self.hosts, self.ports = hosts, ports

    def _password(self, password: str, written: str) -> None:
        self.password = password
        self.secrets.update(secret_forms(password, written))

    def _query(self, query: str) -> None:
        for piece in filter(None, query.split("&")):
            if "=" not in piece:
                raise _Invalid(f"a query parameter has no `=`: {_ENCODE_HINT}")
            try:
                ((name, value),) = parse_qsl(piece, keep_blank_values=True, errors="strict")
            except (UnicodeDecodeError, ValueError):
                name, value = "", "\0"
            if "\0" in value:
                raise _Invalid("a query parameter is not UTF-8 text: check its `%` escapes")
            self._parameter(_ALIASES.get(name, name), value, piece.partition("=")[2])
        self._apply_query()

    def _parameter(self, name: str, value: str, written: str) -> None:
        option = _OPTION.fullmatch(name)
        if option and option[1].lower() in _FIXED_SETTINGS:
            self.warnings.append(f"query parameter `{name}` is ignored: the node sets it itself")
        elif option:
            self.settings[option[1]] = value
        elif name == "password":
            self._password(value, written)
        elif name in _PARAMETERS:
            self.query[name] = value
        else:
            self.warnings.append(f"unknown query parameter {quoted(name)} is ignored")

    def _apply_query(self) -> None:
        query = self.query
        if host := query.get("host"):
            self._query_hosts(host)
        if port := query.get("port"):
            ports: list[int | None] = [_port(item) for item in port.split(",")]
            if not self.hosts:
                self.hosts = [""]
            if len(ports) == 1:
                ports *= len(self.hosts)
            if len(ports) != len(self.hosts):
                raise _Invalid(
                    f"`port` lists {len(ports)} ports for {len(self.hosts)} hosts: "
                    "give one for all, or one for each"
                )
            self.ports = ports
        self.user = query.get("user") or self.user
        self.database = query.get("dbname") or self.database
        if options := query.get("options"):
            self.settings["options"] = options

    def _query_hosts(self, hostlist: str) -> None:
        """Take the hosts of the query, and with them the ports of the authority if they fit."""
        ports = self.ports
        self._hosts(hostlist, encoded=False)
        if len(ports) == len(self.ports) and not any(self.ports):
            self.ports = ports

    def _result(self) -> PostgresUri:
        query = self.query
        return PostgresUri(
            hosts=tuple(self.hosts),
            ports=tuple(self.ports),
            user=self.user,
            password=self.password,
            database=self.database,
            ssl_mode=_choice(query, "sslmode", _SSL_MODES),
            ssl_files=tuple((name, query[name]) for name in SSL_FILES if query.get(name)),
            statement_cache_size=_cache_size(query),
            is_pooled=_is_pooled(query),
            session_attrs=_choice(query, "target_session_attrs", _SESSION_ATTRS),
            settings=tuple(sorted(self.settings.items())),
            secrets=tuple(sorted(self.secrets)),
            warnings=tuple(self.warnings),
        )


def _decoded(text: str, part: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        raise _Invalid(f"its {part} is not UTF-8 text: check the `%` escapes")
    return decoded


def _is_host(text: str) -> bool:
    if text.startswith("/") or re.fullmatch(r"[A-Za-z0-9_.\-]+", text):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host_and_port(item: str) -> tuple[str, str | None]:
    """Split `host`, `host:port`, `[v6]`, `[v6]:port`; a bare IPv6 address has no port."""
    if item.startswith("["):
        host, bracket, rest = item[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise _Invalid("its host has `[` but is not `[IPv6 address]:port`")
        return host, rest[1:] or None
    if item.count(":") > 1:
        if re.fullmatch(r"[0-9A-Fa-f:.]+", item):
            return item, None
        raise _Invalid(f"its host holds more than one `:`: {_ENCODE_HINT}")
    host, _, port = item.partition(":")
    return host, port or None


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= 65535:
        raise _Invalid(f"its port is not a number from 1 to 65535; {_ENCODE_HINT}")
    return int(text)


def _choice(query: dict[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = query.get(name, "").lower()
    if not value:
        return None
    if value not in allowed:
        raise _Invalid(f"its `{name}` must be one of {', '.join(allowed)}")
    return value


def _is_pooled(query: dict[str, str]) -> bool:
    if _choice(query, "pgbouncer", ("true", "false")) != "true":
        return False
    if query.get("options"):
        raise _Invalid("it has `options`, which `pgbouncer=true` rules out: use `options[<name>]`")
    if query.get("target_session_attrs"):
        raise _Invalid("it has `target_session_attrs`: with `pgbouncer=true` the pooler chooses")
    return True


def _cache_size(query: dict[str, str]) -> int:
    text = query.get("statement-cache-capacity", "")
    if not text:
        return DEFAULT_STATEMENT_CACHE
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _Invalid("its `statement-cache-capacity` must be a number of statements")
    return int(text)
