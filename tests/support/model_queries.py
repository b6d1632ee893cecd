"""What the random driver draws: documents, deltas and queries; and what a query must select."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.model import Deltas, Document, Index, Shard, Split, is_in_shards
from tests.support.splitting import CREATED, NIL_ULID

SOURCE_IDS = ("src-a", "src-b", "src-c")
SPLIT_IDS = tuple(f"split-{number}" for number in range(1, 6))
SHARD_IDS = ("shard-1", "shard-2")
TOKENS = (
    "01J00000000000000000000001/n",
    "01J00000000000000000000001",
    "01J00000000000000000000002",
)
# Stands for what is stored now.
CURRENT = "current"
POSITIONS = ("", "00000000000000000010", "00000000000000000020", "9", "~", "~00000000000000000010")
PARTITIONS = ("", "p-1", *SHARD_IDS)
# 2024-01-01T00:00:00Z, as seconds and as queries write it.
MOMENT = 1_704_067_200
MOMENT_ITEMS = [2024, 1, 0, 0, 0, 0, 0, 0, 0]
# Mature an hour later, after MOMENT but in the past, and never.
PERIODS = (3_600_000, 20_000_000_000, 10**15)
STATES = ("Staged", "Published", "MarkedForDeletion")

# What the sequences must have met, or they say less than they seem to: success, or variant and
# kind of the entity.
OUTCOMES = {
    f"{rpc_name} {outcome}".rstrip()
    for rpc_name, outcomes in {
        "CreateIndex": ["", "AlreadyExists index", "AlreadyExists source"],
        "UpdateIndex": ["", "NotFound index"],
        "IndexMetadata": ["", "NotFound index"],
        "DeleteIndex": ["", "NotFound index"],
        "AddSource": ["", "NotFound index", "AlreadyExists source"],
        "UpdateSource": ["", "NotFound index", "NotFound source"],
        "ToggleSource": ["", "NotFound index", "NotFound source"],
        "DeleteSource": ["", "NotFound index", "NotFound source"],
        "ResetSourceCheckpoint": ["", "NotFound index"],
        "StageSplits": ["", "NotFound index", "FailedPrecondition splits", "Db"],
        "PublishSplits": [
            "",
            "NotFound index",
            "NotFound source",
            "NotFound shard",
            "NotFound splits",
            "FailedPrecondition checkpoint_delta",
            "FailedPrecondition splits",
            "InvalidArgument",
            "InvalidPublishToken queue_id",
        ],
        "MarkSplitsForDeletion": ["", "NotFound index"],
        "DeleteSplits": ["", "NotFound index", "FailedPrecondition splits"],
        "UpdateSplitsDeleteOpstamp": ["", "NotFound index"],
        "OpenShards": ["", "Db"],
        "AcquireShards": [""],
        "CreateDeleteTask": ["", "NotFound index"],
    }.items()
    for outcome in outcomes
}

# Most calls are for the index `a` that exists; "old" is a former incarnation of it.
targets = st.sampled_from(["a"] * 14 + ["b"] * 3 + ["old", "none"])
split_ids = st.lists(st.sampled_from(SPLIT_IDS), max_size=4)
opstamps = st.integers(0, 6)


_PARAMS: dict[str, Document] = {
    "void": {"params": None},
    "kafka": {"params": {"topic": "logs"}},
    "file": {"params": {"filepath": "s3://acme/logs.json"}},
    "ingest": {},
}


def source_config(source_id: str, kind: str, enabled: bool) -> Document:
    """Return a source config with every key, in the form in which it is stored."""
    return {
        "version": "0.9",
        "source_id": source_id,
        "num_pipelines": 1,
        "enabled": enabled,
        "source_type": kind,
        **_PARAMS[kind],
        "input_format": "json",
    }


source_configs = st.builds(
    source_config,
    st.sampled_from(SOURCE_IDS),
    st.sampled_from(["void", "kafka", "file", "ingest", "ingest"]),
    st.booleans(),
)
# CURRENT stands for a source of the index, for a shard or partition that it has, and for the
# stored position.
deltas = st.tuples(
    st.sampled_from([CURRENT] * 6 + [*SOURCE_IDS]),
    st.integers(0, 2),
    st.dictionaries(
        st.sampled_from([*PARTITIONS, *[CURRENT] * 6]),
        st.tuples(st.sampled_from([*POSITIONS, *[CURRENT] * 4]), st.sampled_from(POSITIONS)),
        max_size=2,
    ),
)
tokens = st.sampled_from([None, *[CURRENT] * 4, *TOKENS])


def resolve(
    index: Index | None, drawn: tuple[str, int, Deltas] | None, token: str | None
) -> tuple[tuple[str, Deltas] | None, str | None]:
    """Return a delta and a token with the index's own values where CURRENT asks for them."""
    fallback = None if token == CURRENT else token
    if drawn is None:
        return None, fallback
    source_id, pick, intervals = drawn
    if source_id == CURRENT:
        known = sorted(index.sources) if index else []
        source_id = known[pick % len(known)] if known else SOURCE_IDS[pick]
    shards: dict[str, Shard] = {}
    positions: dict[str, str] = {}
    if index is not None:
        shards = {key[1]: shard for key, shard in index.shards.items() if key[0] == source_id}
        positions = index.checkpoint.get(source_id, {})
        if source_id in index.sources and is_in_shards(index.sources[source_id]):
            positions = {key: shard.position for key, shard in shards.items()}
    resolved = {}
    for drawn_key, (start, end) in intervals.items():
        key = min(shards or positions, default="") if drawn_key == CURRENT else drawn_key
        resolved[key] = (positions.get(key, "") if start == CURRENT else start, end)
    held = [shards[key].token for key in sorted(shards)]
    return (source_id, resolved), held[0] if held and token == CURRENT else fallback


def document(
    split_id: str, period: int | None = None, start: int | None = 100, **values: Any
) -> Document:
    """Return the document of a split, `period` milliseconds from maturity."""
    maturity: Document = {"type": "mature"}
    if period is not None:
        maturity = {"type": "immature", "maturation_period_millis": period}
    return {
        "version": "0.9",
        "split_id": split_id,
        "index_uid": f"elsewhere:{NIL_ULID}",
        "partition_id": 2**63 + 7,
        "source_id": "src-a",
        "num_docs": 10,
        "uncompressed_docs_size_in_bytes": 1024,
        "time_range": None if start is None else {"start": start, "end": start + 99},
        "create_timestamp": CREATED,
        "maturity": maturity,
        "node_id": "indexer-1",
        "tags": ["t!", "t:1"],
        "footer_offsets": {"start": 0, "end": 100},
        "delete_opstamp": 0,
        "num_merge_ops": 0,
        "doc_mapping_uid": NIL_ULID,
        **values,
    }


documents = st.builds(
    document,
    st.sampled_from(SPLIT_IDS),
    st.sampled_from([None, *PERIODS]),
    st.sampled_from([None, 0, 100, 200]),
    node_id=st.sampled_from(["indexer-1", "indexer-2"]),
    tags=st.sets(st.sampled_from(["t!", "t:1", "t:2"])).map(sorted),
    footer_offsets=st.integers(1, 5000).map(lambda end: {"start": 0, "end": end}),
    delete_opstamp=opstamps,
)
# What every sequence starts with: all kinds of times, and some to be published or marked.
FIRST_DOCUMENTS = [
    document("split-1", None, None),
    document("split-2", PERIODS[0], 0, tags=[], node_id="indexer-2"),
    document("split-3", PERIODS[1], 100, delete_opstamp=3),
    document("split-4", PERIODS[2], 200),
]
# Twice the same split in one request is an error of its own: rare, so that others are seen.
staged_lists = st.one_of(
    *[st.lists(documents, max_size=3, unique_by=lambda document: document["split_id"])] * 5,
    st.lists(documents, min_size=2, max_size=3),
)


def _bounds(values: SearchStrategy[Any]) -> SearchStrategy[Any]:
    kinds = st.sampled_from(["Included", "Excluded"])
    return st.just("Unbounded") | st.builds(lambda kind, value: {kind: value}, kinds, values)


def _ranges(values: SearchStrategy[int]) -> SearchStrategy[Document]:
    return st.fixed_dictionaries({"start": _bounds(values), "end": _bounds(values)})


_times = st.sampled_from([0, 99, 100, 150, 199, 200, 299])
_tags = st.builds(
    lambda tag, is_present: {"Tag": {"is_present": is_present, "tag": tag}},
    st.sampled_from(["t!", "t:1", "t:2"]),
    st.booleans(),
)
_tag_filters = st.recursive(
    _tags,
    lambda inner: st.builds(
        lambda kind, children: {kind: children},
        st.sampled_from(["And", "Or"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=4,
)
_FILTER_VALUES: dict[str, SearchStrategy[Any]] = {
    "node_id": st.sampled_from(["indexer-1", "indexer-2"]),
    "split_states": st.lists(st.sampled_from(STATES), max_size=2),
    "tags": _tag_filters,
    "time_range": _ranges(_times),
    "max_time_range_end": _times,
    "delete_opstamp": _ranges(opstamps),
    "mature": _bounds(st.just(MOMENT_ITEMS)),
    "included_split_ids": split_ids,
    "excluded_split_ids": split_ids,
}
# One filter alone says more than many, which mostly select nothing together.
queries: SearchStrategy[Document] = st.one_of(
    *(st.fixed_dictionaries({key: values}) for key, values in _FILTER_VALUES.items()),
    st.fixed_dictionaries({}, optional=_FILTER_VALUES),
)
pages = st.fixed_dictionaries(
    {"limit": st.none() | st.integers(0, 4)}, optional={"offset": st.integers(0, 3)}
)


def selects(query: Document, split: Split) -> bool:
    """Whether a query asks for a split."""
    return all(_FILTERS[key](split, value) for key, value in query.items())


def matures_at(document: Document) -> int:
    """Return when a split is mature, in seconds; 0 for one that always was."""
    period = document["maturity"].get("maturation_period_millis")
    return 0 if period is None else document["create_timestamp"] + period // 1000


def _within(value: int, bounds: Document) -> bool:
    return _is_after(value, bounds["start"]) and _is_before(value, bounds["end"])


def _is_after(value: int, bound: Any) -> bool:
    if bound == "Unbounded":
        return True
    ((kind, limit),) = bound.items()
    return bool(value > limit) or (kind == "Included" and value == limit)


def _is_before(value: int, bound: Any) -> bool:
    if bound == "Unbounded":
        return True
    ((kind, limit),) = bound.items()
    return bool(value < limit) or (kind == "Included" and value == limit)


def _overlaps(split: Split, wanted: Document) -> bool:
    own = split.document["time_range"]
    return own is None or (
        _is_after(own["end"], wanted["start"]) and _is_before(own["start"], wanted["end"])
    )


def _ends_by(split: Split, limit: int) -> bool:
    own = split.document["time_range"]
    return own is not None and bool(own["end"] <= limit)


def _is_mature(split: Split, bound: Any) -> bool:
    if bound == "Unbounded":
        return True
    return (matures_at(split.document) <= MOMENT) == ("Included" in bound)


def _has_tags(split: Split, node: Document) -> bool:
    ((kind, content),) = node.items()
    if kind == "Tag":
        return (content["tag"] in split.document["tags"]) is content["is_present"]
    children = [_has_tags(split, child) for child in content]
    return not children or (all(children) if kind == "And" else any(children))


_FILTERS: dict[str, Callable[[Split, Any], bool]] = {
    "node_id": lambda split, value: split.document["node_id"] == value,
    "split_states": lambda split, value: not value or split.state in value,
    "tags": _has_tags,
    "time_range": _overlaps,
    "max_time_range_end": _ends_by,
    "delete_opstamp": lambda split, value: _within(split.document["delete_opstamp"], value),
    "mature": _is_mature,
    "included_split_ids": lambda split, value: not value or split.document["split_id"] in value,
    "excluded_split_ids": lambda split, value: split.document["split_id"] not in value,
}
