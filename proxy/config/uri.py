"""The URI of a PostgreSQL database: its parts, redaction, and what the driver needs to connect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from proxy.config.redact import REDACTED, redact

DEFAULT_STATEMENT_CACHE: Final = 100
SSL_FILES: Final = ("sslrootcert", "sslcert", "sslkey")


@dataclass(frozen=True, repr=False)
class PostgresUri:
    """A database to connect to. Text forms are redacted; equal URIs share a pool.

    `hosts` and `ports` have the same length, a port of None meaning `PGPORT` or 5432; what is
    None or empty is left to the driver's `PG*` variables and defaults. With `is_pooled` the hosts
    are poolers in transaction mode. `warnings` tell what was ignored.
    """

    hosts: tuple[str, ...] = ()
    ports: tuple[int | None, ...] = ()
    user: str | None = None
    password: str | None = None
    database: str | None = None
    ssl_mode: str | None = None
    ssl_files: tuple[tuple[str, str], ...] = ()
    statement_cache_size: int = DEFAULT_STATEMENT_CACHE
    is_pooled: bool = False
    session_attrs: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def server_settings(self) -> dict[str, str]:
        """The session settings that the URI asks for (`options`, `options[<name>]`)."""
        return dict(self.settings)

    @property
    def redacted(self) -> str:
        """The normalized URI with `***redacted***` in place of the password."""
        user = "" if self.user is None else quote(self.user, safe="")
        if self.password is not None:
            user += f":{REDACTED}"
        authority = ",".join(
            _host_text(host, port) for host, port in zip(self.hosts, self.ports, strict=True)
        )
        if user:
            authority = f"{user}@{authority}"
        path = "" if self.database is None else "/" + quote(self.database, safe="")
        query = urlencode(self._query(), safe="/[]", quote_via=quote)
        # A user or database name may repeat the password; the scheme stays readable if it does.
        return "postgresql://" + self.redact(f"{authority}{path}{'?' + query if query else ''}")

    def _query(self) -> list[tuple[str, str]]:
        pairs = [("sslmode", self.ssl_mode)] if self.ssl_mode is not None else []
        pairs += self.ssl_files
        if self.statement_cache_size != DEFAULT_STATEMENT_CACHE:
            pairs.append(("statement-cache-capacity", str(self.statement_cache_size)))
        if self.is_pooled:
            pairs.append(("pgbouncer", "true"))
        if self.session_attrs is not None:
            pairs.append(("target_session_attrs", self.session_attrs))
        for name, value in self.settings:
            pairs.append((name if name == "options" else f"options[{name}]", value))
        return pairs

    def __str__(self) -> str:
        return self.redacted

    def __repr__(self) -> str:
        return f"PostgresUri({self.redacted!r})"

    def redact(self, text: str) -> str:
        """Replace every occurrence of the password, raw or encoded, in any text."""
        return redact(text, self.secrets)

    def connect_arguments(self) -> dict[str, Any]:
        """Return keyword arguments for `asyncpg.connect` and `asyncpg.create_pool`.

        What the URI leaves out is absent, so that the driver's `PG*` variables and password file
        fill it. `server_settings` are not included: the pool merges them with its own.
        """
        cache = 0 if self.is_pooled else self.statement_cache_size
        arguments: dict[str, Any] = {"statement_cache_size": cache}
        named = {
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "ssl": self.ssl_mode,
            "target_session_attrs": self.session_attrs,
        }
        arguments.update({name: value for name, value in named.items() if value is not None})
        hosts = [host for host in self.hosts if host]
        if hosts:
            arguments["host"] = hosts
        if any(port is not None for port in self.ports):
            ports = [5432 if port is None else port for port in self.ports]
            arguments["port"] = ports if hosts else ports[0]
        if self.ssl_files:
            # The driver takes these files in a DSN only.
            arguments["dsn"] = "postgresql://?" + urlencode(self.ssl_files)
        return arguments


def _host_text(host: str, port: int | None) -> str:
    if host.startswith("/"):
        host = quote(host, safe="")
    elif ":" in host:
        host = f"[{host}]"
    return host if port is None else f"{host}:{port}"
