"""A metastore in a few plain structures: what the node's answers are compared with.

It says what happens, not how: no SQL, no JSON text, none of our code. Every method raises
`Refusal` or returns the answer in plain values. Times are not modelled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]
Deltas = dict[str, tuple[str, str]]


class Refusal(Exception):
    """An error that the metastore must answer with: its variant, and what it is about.

    `entities` holds the alternatives where the order of evaluation is left open; None is for
    variants without an entity.
    """

    def __init__(self, variant: str, *entities: Document) -> None:
        super().__init__(variant, *entities)
        self.variant = variant
        self.entities = entities


def index_entity(uid: str) -> Document:
    """Return the entity of an index."""
    return {"index": {"index_id": uid.partition(":")[0]}}


def source_entity(uid: str, source_id: str) -> Document:
    """Return the entity of a source."""
    return {"source": {"index_id": uid.partition(":")[0], "source_id": source_id}}


def splits_entity(split_ids: Iterable[str]) -> Document:
    """Return the entity of splits; their order says nothing."""
    return {"splits": {"split_ids": sorted(set(split_ids))}}


def rank(position: str) -> tuple[int, str]:
    """Return the key by which positions are ordered."""
    if position == "":
        return 0, ""
    if not position.startswith("~"):
        return 1, position
    return (2, "") if position == "~" else (3, position[1:])


def is_in_shards(config: Document) -> bool:
    """Whether the positions of a source are kept in shards."""
    return config["source_type"] == "ingest" or "notifications" in (config.get("params") or {})


@dataclass
class Split:
    """A split: its document as staged, and what the metastore adds."""

    document: Document
    state: str = "Staged"
    # The number of the publish that touched it last.
    publish: int | None = None


@dataclass
class Shard:
    """A shard of one source."""

    token: str | None
    position: str = ""
    state: str = "open"


@dataclass
class Index:
    """One incarnation of an index."""

    uid: str
    config: Document
    sources: dict[str, Document]
    checkpoint: dict[str, dict[str, str]]
    splits: dict[str, Split] = field(default_factory=dict)
    shards: dict[tuple[str, str], Shard] = field(default_factory=dict)
    tasks: dict[int, Any] = field(default_factory=dict)

    def source(self, source_id: str) -> Document:
        """Return a source's config."""
        if source_id not in self.sources:
            raise Refusal("NotFound", source_entity(self.uid, source_id))
        return self.sources[source_id]

    def existing(self, split_ids: Iterable[str]) -> dict[str, Split]:
        """Return those of the splits that exist."""
        return {key: self.splits[key] for key in split_ids if key in self.splits}


class Model:
    """All indexes, by UID."""

    def __init__(self) -> None:
        self.indexes: dict[str, Index] = {}
        self._publishes = 0
        self.last_opstamp = 0

    # Indexes

    def check_create(self, index_id: str, source_ids: list[str]) -> None:
        """Raise what CreateIndex must refuse."""
        for number, source_id in enumerate(source_ids):
            if source_id in source_ids[:number]:
                raise Refusal("AlreadyExists", source_entity(index_id, source_id))
        if self._by_id(index_id) is not None:
            raise Refusal("AlreadyExists", index_entity(index_id))

    def created(self, uid: str, config: Document, sources: list[Document]) -> None:
        """Note an index that was created under a UID of the server's choice."""
        by_id = {source["source_id"]: source for source in sources}
        self.indexes[uid] = Index(uid, config, by_id, {source_id: {} for source_id in by_id})

    def delete_index(self, uid: str) -> None:
        self._index(uid)
        del self.indexes[uid]

    def update_index(self, uid: str, changes: Document) -> Index:
        index = self._index(uid)
        index.config |= changes
        return index

    def index(self, uid: str) -> Index:
        return self._index(uid)

    def stats(self, uid: str) -> dict[str, tuple[int, int]]:
        """Return number and bytes of the splits in each state."""
        found = {}
        for state in ("Staged", "Published", "MarkedForDeletion"):
            splits = [item for item in self.indexes[uid].splits.values() if item.state == state]
            sizes = [item.document["footer_offsets"]["end"] for item in splits]
            found[state] = (len(sizes), sum(sizes))
        return found

    # Sources

    def add_source(self, uid: str, config: Document) -> None:
        index, source_id = self._index(uid), config["source_id"]
        if source_id in index.sources:
            raise Refusal("AlreadyExists", source_entity(uid, source_id))
        index.sources[source_id] = config
        index.checkpoint.setdefault(source_id, {})

    def update_source(self, uid: str, config: Document) -> None:
        index = self._index(uid)
        index.source(config["source_id"])
        index.sources[config["source_id"]] = config

    def toggle_source(self, uid: str, source_id: str, enable: bool) -> None:
        index = self._index(uid)
        index.sources[source_id] = {**index.source(source_id), "enabled": enable}

    def delete_source(self, uid: str, source_id: str) -> None:
        index = self._index(uid)
        index.source(source_id)
        del index.sources[source_id]
        index.checkpoint.pop(source_id, None)
        for key in [key for key in index.shards if key[0] == source_id]:
            del index.shards[key]

    def reset_checkpoint(self, uid: str, source_id: str) -> None:
        self._index(uid).checkpoint.pop(source_id, None)

    # Splits

    def stage(self, uid: str, documents: list[Document]) -> None:
        if not documents:
            return
        index = self.indexes.get(uid)
        splits = index.splits if index else {}
        ids = [document["split_id"] for document in documents]
        fixed = [key for key in ids if key in splits and splits[key].state != "Staged"]
        if any(ids.count(key) > 1 for key in ids if key not in fixed):
            raise Refusal("Db")
        if index is None:
            raise Refusal("NotFound", index_entity(uid))
        if fixed:
            raise Refusal("FailedPrecondition", splits_entity(fixed))
        for document in documents:
            splits[document["split_id"]] = Split({**document, "index_uid": uid})

    def publish(
        self,
        uid: str,
        staged: list[str],
        replaced: list[str],
        delta: tuple[str, Deltas] | None,
        token: str | None,
    ) -> None:
        index = copy.deepcopy(self._index(uid))
        if delta is not None:
            self._advance(index, *delta, token)
        found = index.existing([*staged, *replaced])
        for variant, wrong in (
            ("NotFound", [key for key in [*staged, *replaced] if key not in found]),
            ("FailedPrecondition", [key for key in staged if _state(found, key) != "Staged"]),
            ("FailedPrecondition", [key for key in replaced if _state(found, key) != "Published"]),
        ):
            if wrong:
                raise Refusal(variant, splits_entity(wrong))
        self._publishes += 1
        for split in found.values():
            split.state = "Published" if split.state == "Staged" else "MarkedForDeletion"
            split.publish = self._publishes
        self.indexes[uid] = index

    @staticmethod
    def _advance(index: Index, source_id: str, deltas: Deltas, token: str | None) -> None:
        is_sharded = is_in_shards(index.source(source_id))
        if not is_sharded:
            positions = index.checkpoint.get(source_id, {})
            if any(rank(positions.get(key, "")) > rank(delta[0]) for key, delta in deltas.items()):
                entity = source_entity(index.uid, source_id)["source"]
                raise Refusal("FailedPrecondition", {"checkpoint_delta": entity})
            if deltas:
                reached = {key: delta[1] for key, delta in deltas.items()}
                index.checkpoint[source_id] = {**positions, **reached}
            return
        if token is None:
            raise Refusal("InvalidArgument")
        queue = f"{index.uid}/{source_id}"
        shards = {key: index.shards.get((source_id, key)) for key in deltas}
        if None in shards.values():
            raise Refusal("NotFound", {"shard": {"queue_id": queue}})
        known = {key: shard for key, shard in shards.items() if shard is not None}
        foreign = [key for key, shard in known.items() if shard.token != token]
        if foreign:
            raise Refusal(
                "InvalidPublishToken", *({"queue_id": f"{queue}/{key}"} for key in foreign)
            )
        if any(rank(shard.position) > rank(deltas[key][0]) for key, shard in known.items()):
            raise Refusal("InvalidArgument")
        for key, shard in known.items():
            shard.position = deltas[key][1]
            if shard.position.startswith("~"):
                shard.state = "closed"

    def mark(self, uid: str, split_ids: list[str]) -> None:
        index = self.indexes.get(uid)
        found = index.existing(split_ids) if index else {}
        if not found and self._by_id(uid.partition(":")[0]) is None:
            raise Refusal("NotFound", index_entity(uid))
        for split in found.values():
            split.state = "MarkedForDeletion"

    def delete_splits(self, uid: str, split_ids: list[str]) -> None:
        index = self._index(uid)
        found = index.existing(split_ids)
        kept = [key for key, split in found.items() if split.state != "MarkedForDeletion"]
        if kept:
            raise Refusal("FailedPrecondition", splits_entity(kept))
        for key in found:
            del index.splits[key]

    def update_opstamp(self, uid: str, split_ids: list[str], opstamp: int) -> None:
        if not split_ids:
            return
        for split in self._index(uid).existing(split_ids).values():
            split.document["delete_opstamp"] = opstamp

    # Shards

    def open_shard(self, uid: str, source_id: str, shard_id: str, token: str | None) -> Shard:
        if uid not in self.indexes:
            raise Refusal("Db")
        return self.indexes[uid].shards.setdefault((source_id, shard_id), Shard(token))

    def acquire(
        self, uid: str, source_id: str, shard_ids: list[str], token: str
    ) -> dict[str, Shard]:
        index = self.indexes.get(uid)
        shards = {} if index is None else index.shards
        acquired = {}
        for shard_id in shard_ids:
            shard = shards.get((source_id, shard_id))
            if shard is not None and _gives_way(shard.token, token):
                shard.token = token
                acquired[shard_id] = shard
        return acquired

    # Delete tasks

    def check_task(self, uid: str) -> None:
        """Raise what CreateDeleteTask must refuse."""
        self._index(uid)

    def task_created(self, uid: str, opstamp: int, query: object) -> None:
        """Note a task that was created under an opstamp of the server's choice."""
        assert opstamp > self.last_opstamp
        self.last_opstamp = opstamp
        self.indexes[uid].tasks[opstamp] = query

    def tasks(self, uid: str, after: int = 0) -> dict[int, Any]:
        tasks = self.indexes[uid].tasks if uid in self.indexes else {}
        return {opstamp: query for opstamp, query in tasks.items() if opstamp > after}

    def _by_id(self, index_id: str) -> Index | None:
        return next(
            (index for uid, index in self.indexes.items() if uid.partition(":")[0] == index_id),
            None,
        )

    def _index(self, uid: str) -> Index:
        if uid not in self.indexes:
            raise Refusal("NotFound", index_entity(uid))
        return self.indexes[uid]


def _state(found: dict[str, Split], split_id: str) -> str | None:
    return found[split_id].state if split_id in found else None


def _gives_way(held: str | None, presented: str) -> bool:
    return not held or "/" in presented or "/" in held or held <= presented
