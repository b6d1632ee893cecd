"""Storage URIs in the canonical form that the metastore writes.

Facts: the protocols known are azure, file, grpc, actor, postgresql (also written pg or postgres),
ram, s3 and gs; a URI without a protocol is a file path; file paths become absolute, without `.`,
`..` and a trailing slash; all other paths stay as they are. Error texts never show the URI, which
may hold credentials.
"""

from __future__ import annotations

import os
from typing import Final

_PROTOCOLS: Final = {
    "actor": "actor",
    "azure": "azure",
    "file": "file",
    "grpc": "grpc",
    "gs": "gs",
    "pg": "postgresql",
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "ram": "ram",
    "s3": "s3",
}


def normalize(uri: str) -> str:
    """Return the canonical form of a URI. `ValueError` if it has none."""
    if not uri:
        raise ValueError("the URI is empty")
    name, separator, path = uri.partition("://")
    if not separator:
        return f"file://{_absolute(uri)}"
    protocol = _PROTOCOLS.get(name)
    if protocol is None:
        raise ValueError(f"unknown URI protocol `{name[:32]}`, expected one of {_known()}")
    return f"{protocol}://{_absolute(path) if protocol == 'file' else path}"


def _known() -> str:
    return ", ".join(sorted(set(_PROTOCOLS.values())))


def _absolute(path: str) -> str:
    if path.startswith("~"):
        if path != "~" and not path.startswith("~/"):
            raise ValueError("the URI names the home directory of another user")
        path = os.path.expanduser("~") + path[1:]
    if not path.startswith("/"):
        path = f"{os.getcwd()}/{path}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/" + "/".join(parts)
