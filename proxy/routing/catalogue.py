"""Every RPC of the metastore: read or write, stale-tolerant or not, idempotent or not, deadline.

This is the one table that servicer, client, metrics and documentation read. A test proves the
access class by running each RPC on a read-only transaction of a real database.

Facts: the methods are those of `quickwit.metastore.MetastoreService`. `GetClusterIdentity` counts
as a write because it inserts the identity when it is absent, in the statement that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

SERVICE: Final = "quickwit.metastore.MetastoreService"

# Seconds. Quickwit's clients give up on an attempt after 10 s; a list of splits may take longer.
UNARY_DEADLINE: Final = 10.0
STREAM_DEADLINE: Final = 60.0


class Access(Enum):
    """What PostgreSQL says of the RPC's statements on a read-only transaction."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Rpc:
    """The facts about one RPC. `deadline` is the default for a whole call, in seconds."""

    name: str
    access: Access
    is_stale_tolerant: bool = False
    is_idempotent: bool = False
    is_streaming: bool = False
    deadline: float = UNARY_DEADLINE

    @property
    def is_read(self) -> bool:
        """Whether the RPC never writes."""
        return self.access is Access.READ

    @property
    def path(self) -> str:
        """The full gRPC method path."""
        return f"/{SERVICE}/{self.name}"

    @property
    def metric_name(self) -> str:
        """The snake_case name that metrics carry in the label `rpc`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()


def _stale(name: str) -> Rpc:
    return Rpc(name, Access.READ, is_stale_tolerant=True, is_idempotent=True)


def _read(name: str) -> Rpc:
    return Rpc(name, Access.READ, is_idempotent=True)


def _write(name: str, *, idempotent: bool = False) -> Rpc:
    return Rpc(name, Access.WRITE, is_idempotent=idempotent)


_TABLE: Final = (
    _write("CreateIndex"),
    _write("UpdateIndex", idempotent=True),
    _stale("IndexMetadata"),
    _stale("IndexesMetadata"),
    _stale("ListIndexesMetadata"),
    _write("DeleteIndex"),
    _read("ListIndexStats"),
    Rpc(
        "ListSplits",
        Access.READ,
        is_stale_tolerant=True,
        is_idempotent=True,
        is_streaming=True,
        deadline=STREAM_DEADLINE,
    ),
    _write("StageSplits", idempotent=True),
    _write("PublishSplits"),
    _write("MarkSplitsForDeletion", idempotent=True),
    _write("DeleteSplits", idempotent=True),
    _write("AddSource"),
    _write("UpdateSource", idempotent=True),
    _write("ToggleSource", idempotent=True),
    _write("DeleteSource"),
    _write("ResetSourceCheckpoint", idempotent=True),
    _read("LastDeleteOpstamp"),
    _write("CreateDeleteTask"),
    _write("UpdateSplitsDeleteOpstamp", idempotent=True),
    _read("ListDeleteTasks"),
    _read("ListStaleSplits"),
    _write("OpenShards", idempotent=True),
    _write("AcquireShards", idempotent=True),
    _write("DeleteShards", idempotent=True),
    _write("PruneShards", idempotent=True),
    _read("ListShards"),
    _write("CreateIndexTemplate"),
    _read("GetIndexTemplate"),
    _read("FindIndexTemplateMatches"),
    _read("ListIndexTemplates"),
    _write("DeleteIndexTemplates", idempotent=True),
    _write("GetClusterIdentity", idempotent=True),
    _write("StageMetricsSplits", idempotent=True),
    _write("PublishMetricsSplits"),
    _stale("ListMetricsSplits"),
    _write("MarkMetricsSplitsForDeletion", idempotent=True),
    _write("DeleteMetricsSplits", idempotent=True),
    _write("StageSketchSplits", idempotent=True),
    _write("PublishSketchSplits"),
    _stale("ListSketchSplits"),
    _write("MarkSketchSplitsForDeletion", idempotent=True),
    _write("DeleteSketchSplits", idempotent=True),
)

RPCS: Final[Mapping[str, Rpc]] = {rpc.name: rpc for rpc in _TABLE}
