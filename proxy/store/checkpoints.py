"""Positions, checkpoints and the deltas that a publish applies to them. Pure functions.

Facts: a position is a string whose form gives its rank (beginning, offset, end of partition);
positions are ordered by rank, then byte by byte, never as numbers. A delta `(from, to]` is
incompatible with a checkpoint only where the stored position is greater than `from`; gaps are
accepted, and partitions that the checkpoint does not know are too. The text of an incompatibility
is the same for sources tracked in the index metadata and for those tracked in shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy import errors
from proxy.store import documents

DELTA_STRUCT: Final = "quickwit_metastore::checkpoint::IndexCheckpointDelta"
BEGINNING: Final = ""
EOF_PREFIX: Final = "~"

# Source ID -> partition ID -> position, as in the `checkpoint` of an index's metadata.
Checkpoint = dict[str, dict[str, str]]


def is_eof(position: str) -> bool:
    """Whether nothing follows this position in its partition."""
    return position.startswith(EOF_PREFIX)


def position_key(position: str) -> tuple[int, bytes]:
    """Return the sort key of a position: beginning < offsets < bare end < ends after an offset."""
    raw = position.encode()
    if not raw:
        return 0, b""
    if not is_eof(position):
        return 1, raw
    return (2, b"") if len(raw) == 1 else (3, raw[1:])


def position_debug(position: str) -> str:
    """Return a position in the form that error texts show."""
    if position == BEGINNING:
        return "Position::Beginning"
    if position == EOF_PREFIX:
        return "Position::Eof"
    if is_eof(position):
        return f"Position::Eof({position[1:]})"
    return f"Position::Offset({position})"


@dataclass(frozen=True, slots=True)
class PartitionDelta:
    """An interval of one partition: after `start`, up to and including `end`."""

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class CheckpointDelta:
    """What a publish adds to one source: an interval for each partition, in byte order of IDs."""

    source_id: str
    partitions: Mapping[str, PartitionDelta]


def parse_delta(text: str) -> CheckpointDelta:
    """Decode the JSON of a checkpoint delta. `JsonDeserializeError` naming the wrong field."""
    reader = documents.Reader(documents.parse(text, DELTA_STRUCT), DELTA_STRUCT)
    source_id = reader.string("source_id")
    per_partition = reader.object("source_delta").object("per_partition")
    partitions = {}
    for partition_id in sorted(per_partition.document, key=str.encode):
        interval = per_partition.object(partition_id)
        partitions[partition_id] = PartitionDelta(interval.string("from"), interval.string("to"))
    return CheckpointDelta(source_id, partitions)


def incompatibility(positions: Mapping[str, str], delta: CheckpointDelta) -> str | None:
    """Return why `delta` cannot follow the stored `positions` of its source, or None if it can.

    The first incompatible partition in byte order is named.
    """
    for partition_id, interval in delta.partitions.items():
        stored = positions.get(partition_id)
        if stored is not None and position_key(stored) > position_key(interval.start):
            return (
                f"incompatible checkpoint delta at partition `{partition_id}`: end position is "
                f"`{position_debug(stored)}` (inclusive), whereas delta starts at "
                f"`{position_debug(interval.start)}` (exclusive)"
            )
    return None


def apply_delta(checkpoint: Checkpoint, delta: CheckpointDelta, index_id: str) -> bool:
    """Move a checkpoint forward in place; return whether there was anything to apply.

    `FailedPrecondition` on an incompatible delta, with the checkpoint unchanged. A source that
    has no entry yet gets one.
    """
    if not delta.partitions:
        return False
    problem = incompatibility(checkpoint.get(delta.source_id, {}), delta)
    if problem is not None:
        entity = errors.checkpoint_delta(index_id, delta.source_id)
        raise errors.FailedPrecondition(entity, problem)
    positions = checkpoint.setdefault(delta.source_id, {})
    for partition_id, interval in delta.partitions.items():
        positions[partition_id] = interval.end
    return True
