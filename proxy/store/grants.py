"""What to grant when the database refuses something for want of a right.

Facts: the texts are PostgreSQL's for SQLSTATE 42501. Nothing that a node does needs more than an
ordinary user can be given: see the README.
"""

from __future__ import annotations

import re
from typing import Final

import asyncpg

from proxy.config import PostgresUri

_DENIED: Final = re.compile(r"permission denied for (\w+) ([\w.]+)")
_NOT_OWNER: Final = re.compile(r"must be owner of (\w+) ([\w.]+)")
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
_ARGUMENTS: Final = {"pg_walfile_name": "pg_lsn", "pg_walfile_name_offset": "pg_lsn"}
# What a user does who may not change the schema.
MIGRATE: Final = "run `metastore-proxy migrate` as the user who owns the tables"
CONTROL_FUNCTIONS: Final = ("pg_control_system", "pg_control_checkpoint", "pg_control_recovery")


def explain(error: BaseException, uri: PostgresUri, rights: str = "SELECT") -> str:
    """Return the text of a refusal with the statement that mends it; "" when it is none.

    `rights` are those that are needed on a table.
    """
    if not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ""
    text = str(error.args[0]) if error.args else str(error)
    found = _DENIED.match(text)
    if found is None:
        owner = _NOT_OWNER.match(text)
        return text if owner is None else f"{text}: {MIGRATE}"
    kind, name = found.groups()
    if kind == "function":
        function = f"FUNCTION {name}({_ARGUMENTS.get(name, '')})"
        return f"{text}: run `{grant('EXECUTE', function, uri)}` as a superuser"
    if kind == "schema":
        wanted = "USAGE" if rights == "SELECT" else "USAGE, CREATE"
        return f"{text}: run `{grant(wanted, f'SCHEMA {name}', uri)}` as its owner"
    if kind in ("table", "view", "relation", "sequence"):
        place = f"ALL {'SEQUENCES' if kind == 'sequence' else 'TABLES'} IN SCHEMA public"
        wanted = "USAGE" if kind == "sequence" else rights
        return f"{text}: run `{grant(wanted, place, uri)}` as their owner"
    return text


def grant(rights: str, target: str, uri: PostgresUri) -> str:
    """Return a statement that gives the user of a URI a right."""
    user = uri.user or "the user of this node"
    if not _PLAIN.fullmatch(user):
        user = '"' + user.replace('"', '""') + '"'
    return f"GRANT {rights} ON {target} TO {user}"


def control_grant(uri: PostgresUri) -> str:
    """Return the statement by which a server can tell whose copy it is."""
    functions = ", ".join(f"{name}()" for name in CONTROL_FUNCTIONS)
    return grant("EXECUTE", f"FUNCTION {functions}", uri)
