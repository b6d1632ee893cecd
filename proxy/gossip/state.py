"""The keys of one member, as its owner writes them and as everybody else copies them.

Facts: `state.rs` of chitchat. Only the owner writes, each write taking the next version. A deleted
key stays as a tombstone for a while, so that its deletion reaches everybody; `last_gc_version` is
the highest version of a tombstone dropped since. Who is behind it may have missed a deletion and
must begin anew: the *reset*.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from proxy.gossip.identity import MAX_U16, MAX_U64, MemberId
from proxy.gossip.keys import DETAIL_MARK
from proxy.gossip.limits import KEY_OVERHEAD, Limits
from proxy.gossip.messages import DELETED, EXPIRING, SET, KeyRecord, NodeDelta


class Applied(Enum):
    """What became of a delta."""

    APPLIED = "applied"
    # The state was thrown away first.
    RESET = "reset"
    # Nothing in it is new.
    STALE = "stale"
    # It begins after what is known, so that something would be missing.
    FUTURE = "future"
    # It begins in the middle, and deletions before it may be missing.
    GAP = "gap"
    # It may bring back keys whose deletion is forgotten here and unknown to the sender.
    OUTDATED = "outdated"


class MemberRecord(NamedTuple):
    """A member's whole state as FetchClusterState has it, its keys by version."""

    member_id: MemberId
    records: tuple[KeyRecord, ...]
    max_version: int
    last_gc_version: int


def is_sound(record: MemberRecord) -> bool:
    """Tell whether gossip can pass a state on: its versions rise, and all of it has an encoding."""
    versions = (0, *(each.version for each in record.records), record.max_version + 1)
    return (
        all(low < high for low, high in pairwise(versions))
        and max(record.max_version, record.last_gc_version) <= MAX_U64
        and all(SET <= each.status <= EXPIRING for each in record.records)
        and all(len(text.encode()) <= MAX_U16 for each in record.records for text in each[:2])
    )


class MemberState:
    """The keys of one member, and up to which version they are known.

    `(last_gc_version, max_version)` never decreases. `revision` changes whenever a key that a view
    shows may have. `size` is what the keys cost, in bytes.
    """

    __slots__ = ("_dying", "_records", "last_gc_version", "max_version", "revision", "size")

    def __init__(self) -> None:
        # In the order of their versions: a write takes its key out and puts it in again.
        self._records: dict[str, KeyRecord] = {}
        # Since when a key is to be dropped, on this node's clock; the oldest first.
        self._dying: dict[str, float] = {}
        self.max_version = 0
        self.last_gc_version = 0
        self.revision = 0
        self.size = 0

    # The owner's writes

    def set(self, key: str, value: str) -> None:
        """Set a key, unless it has this value already."""
        known = self._records.get(key)
        if known is None or known.status != SET or known.value != value:
            self.max_version += 1
            self._put(KeyRecord(key, value, self.max_version, SET), 0.0)

    def delete(self, key: str, now: float) -> None:
        """Delete a key, unless there is none."""
        known = self._records.get(key)
        if known is not None and known.is_visible:
            self.max_version += 1
            self._put(KeyRecord(key, "", self.max_version, DELETED), now)

    # Reading

    @property
    def horizon(self) -> int:
        """Up to which version all deletions are known here, or were where the state came from."""
        return max(self.last_gc_version, self.max_version)

    def get(self, key: str) -> str | None:
        """Return a key's value."""
        record = self._records.get(key)
        return record.value if record is not None and record.is_visible else None

    def plain_keys(self) -> dict[str, str]:
        """Return the member's own keys: those that name no shard or pipeline."""
        return {
            record.key: record.value
            for record in self._records.values()
            if record.is_visible and DETAIL_MARK not in record.key
        }

    def records(self) -> list[KeyRecord]:
        """Return all keys by version, tombstones included."""
        return list(self._records.values())

    def records_after(self, version: int) -> list[KeyRecord]:
        """Return what was written after a version, by version, tombstones included."""
        if version == 0:
            return self.records()
        newer = []
        for record in reversed(self._records.values()):
            if record.version <= version:
                break
            newer.append(record)
        newer.reverse()
        return newer

    def __len__(self) -> int:
        """Return the number of keys, tombstones included."""
        return len(self._records)

    # Copying

    def apply(
        self, delta: NodeDelta, now: float, limits: Limits, room: int, sender_version: int = 0
    ) -> Applied:
        """Take over what is new in a delta, at most `room` bytes more.

        What exceeds the limits is left off, together with all that follows it. `sender_version` is
        up to which version the sender knows the member, where it said so.
        """
        if delta.from_version > self.max_version:
            return Applied.FUTURE
        gc = delta.last_gc_version
        if gc <= self.last_gc_version or gc <= self.max_version:
            if self.max_version >= delta.max_version:
                return Applied.STALE
            # Chitchat takes this delta. After a reset the highest version stays below
            # `last_gc_version` until the rest has come. A sender older than the reset would fill
            # the gap with keys that were deleted, and nobody has their tombstones any more.
            if max(gc, delta.max_version, sender_version) < self.last_gc_version:
                return Applied.OUTDATED
            self._take(delta, now, limits, room)
            return Applied.APPLIED
        if delta.from_version != 0:
            return Applied.GAP
        room += self.size
        self._clear()
        self.max_version, self.last_gc_version = 0, gc
        self._take(delta, now, limits, room)
        return Applied.RESET

    def _take(self, delta: NodeDelta, now: float, limits: Limits, room: int) -> None:
        """Write a delta's keys, as far as they fit."""
        floor = self.max_version
        most = min(limits.member_bytes, self.size + room)
        for record in delta.records:
            if record.version <= floor:
                continue
            if record.status == SET or record.version > self.last_gc_version:
                if not self._fits(record, limits.keys, most):
                    return
                self._put(record, now)
            self.max_version = record.version
        self.max_version = delta.max_version

    def replace(self, records: Sequence[KeyRecord], versions: tuple[int, int], now: float) -> bool:
        """Take over a whole state with these `(last_gc_version, max_version)`; False if not newer.

        Records must be by version, and none above `max_version`.
        """
        if versions <= (self.last_gc_version, self.max_version):
            return False
        since = dict(self._dying)
        self._clear()
        self.last_gc_version, self.max_version = versions
        for record in records:
            self._put(record, since.get(record.key, now))
        return True

    # Forgetting

    def collect(self, now: float, grace: float) -> None:
        """Drop keys that have been deleted, or due to be, for `grace` seconds."""
        while self._dying:
            key, since = next(iter(self._dying.items()))
            if now - since < grace:
                return
            record = self._records[key]
            self._remove(record)
            self.last_gc_version = max(self.last_gc_version, record.version)

    def _fits(self, record: KeyRecord, keys: int, most: int) -> bool:
        known = self._records.get(record.key)
        size = self.size + cost(record) - (cost(known) if known else 0)
        return size <= most and (known is not None or len(self._records) < keys)

    def _put(self, record: KeyRecord, now: float) -> None:
        known = self._records.get(record.key)
        if known is not None:
            self._remove(known)
        self._records[record.key] = record
        self.size += cost(record)
        if record.status != SET:
            self._dying[record.key] = now
        self._touch(record)

    def _remove(self, record: KeyRecord) -> None:
        del self._records[record.key]
        self._dying.pop(record.key, None)
        self.size -= cost(record)
        self._touch(record)

    def _touch(self, record: KeyRecord) -> None:
        if DETAIL_MARK not in record.key:
            self.revision += 1

    def _clear(self) -> None:
        self._records.clear()
        self._dying.clear()
        self.size = 0
        self.revision += 1


def cost(record: KeyRecord) -> int:
    """Return the bytes that a key counts for."""
    return len(record.key) + len(record.value) + KEY_OVERHEAD
