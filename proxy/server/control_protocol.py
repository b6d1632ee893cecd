"""What both ends of a node's control socket know: the node's, and that of `metastore-proxy drain`.

Needs nothing that serves or calls, since the command is run while somebody waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

PREFIX: Final = "metastore-proxy-"
SUFFIX: Final = ".sock"
DRAIN: Final = b"drain\n"
# What a socket's address holds, with room for the path by a descriptor.
_LONGEST: Final = 100


class DrainState(Enum):
    """How far a drain is; `proxy.server.drain` has the transitions."""

    SERVING = "serving"
    LEAVING = "leaving"
    FINISHING = "finishing"
    DRAINED = "drained"
    OVERDUE = "overdue"


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Give an address for a socket at `path`, also where the path is too long for one."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def sockets_in(data_dir: Path) -> list[Path]:
    """Return the sockets of nodes, whether or not any of them is still there.

    None where there is no such directory; `PermissionError` for one that this user may not read.
    """
    try:
        names = os.listdir(data_dir)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        data_dir / name
        for name in sorted(names)
        if name.startswith(PREFIX) and name.endswith(SUFFIX)
    ]
