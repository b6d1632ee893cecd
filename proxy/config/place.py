"""Where a node's process is to be found on its host, also while its configuration is broken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from proxy.config.formats import read_document
from proxy.config.problems import ConfigError, Findings
from proxy.config.values import OPTIONAL_STRING, STRING, Values

_EVERY_INTERFACE: Final = {
    "0.0.0.0": "127.0.0.1",  # noqa: S104 - replaced, not bound
    "::": "::1",
}


def host_of(listen_address: str) -> str:
    """Return where a node that listens there is reached from its own host."""
    return _EVERY_INTERFACE.get(listen_address, listen_address)


def node_place(path: Path | None, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the `data_dir` and the `node_id` of a node's configuration, None where none is given.

    The rest of it is not looked at, so that a node can be found that runs on an earlier version of
    a file which is now in error. `ConfigError` when these two cannot be read.
    """
    findings = Findings()
    document = {} if path is None else read_document(path, environ, findings)
    mine = Findings()
    values = Values(document, environ, mine)
    data_dir = values.get("data_dir", STRING, "qwdata", env="QW_DATA_DIR")
    node_id = values.get("node_id", OPTIONAL_STRING, None, env="QW_NODE_ID")
    if mine.errors:
        raise ConfigError(*mine.errors, where="" if path is None else f"`{path}`")
    return data_dir, node_id
