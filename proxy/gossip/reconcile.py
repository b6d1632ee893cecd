"""What to tell a member of the states that it knows less of.

Facts: `compute_partial_delta_respecting_mtu` of chitchat: first the members of which the other
knows nothing, the smallest first, so that a metastore's few keys do not wait behind an indexer's
many; then those of which it lacks most.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Final, NamedTuple

from proxy.gossip.blocks import BlockCodec, BlockWriter
from proxy.gossip.messages import (
    EMPTY_STREAM,
    KeyRecord,
    max_version_operation,
    node_operation,
    record_operation,
)
from proxy.gossip.state import MemberState
from proxy.gossip.wire import NOTHING, Digest

# A datagram with less room than this has no delta; chitchat fails there.
MIN_BUDGET: Final = 100


class _Candidate(NamedTuple):
    raw: bytes
    state: MemberState
    from_version: int
    records: list[KeyRecord]

    @property
    def order(self) -> tuple[int, int]:
        """Unknown members before known ones; small ones first, and those that lack most first."""
        if self.from_version == 0:
            return 0, self.state.max_version
        return 1, -len(self.records)


def from_version(state: MemberState, last_gc_version: int, max_version: int) -> int:
    """Return the version after which a member that knows this much must be told of a state.

    0, all of it, when tombstones may be gone that the other has not seen.
    """
    gc = state.last_gc_version
    return 0 if last_gc_version < gc and max_version < gc else max_version


def build_delta(
    states: Iterable[tuple[bytes, MemberState]],
    digest: Digest,
    budget: int,
    *,
    rng: Random,
    codec: BlockCodec,
) -> bytes:
    """Return the encoded delta, at most `budget` bytes, for a member that sent this digest.

    Empty when the budget is under 100. Of each member's keys it has the oldest ones that fit.
    """
    if budget < MIN_BUDGET:
        return EMPTY_STREAM
    candidates = []
    for raw, state in states:
        _, last_gc_version, max_version = digest.get(raw, NOTHING)
        # The last condition is ours: who forgot deletions that we never heard of must not be told
        # of keys that we still hold (see `MemberState.apply`).
        if state.max_version > max_version and last_gc_version <= state.horizon:
            start = from_version(state, last_gc_version, max_version)
            candidates.append(_Candidate(raw, state, start, state.records_after(start)))
    if not candidates:
        return EMPTY_STREAM
    rng.shuffle(candidates)
    candidates.sort(key=lambda candidate: candidate.order)
    writer = BlockWriter(codec, budget)
    for candidate in candidates:
        if not _write(writer, candidate):
            break
    return writer.finish()


def _write(writer: BlockWriter, candidate: _Candidate) -> bool:
    """Write as much of a member's keys as fits; tell whether that was all."""
    raw, state, start, records = candidate
    if not writer.add(node_operation(raw, state.last_gc_version, start)):
        return False
    if not records:
        return writer.add(max_version_operation(state.max_version))
    return all(writer.add(record_operation(record)) for record in records)
