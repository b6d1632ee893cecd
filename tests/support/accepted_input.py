"""Which malformed values the metastore accepts, and which it answers with an uncertain error.

Everything that is not listed here must be refused, with an error that names what is wrong. Each
entry says why: most are values that the protocol allows, or that mean "nothing of that name".
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.support.malformed import Case


class Accepted(NamedTuple):
    """Values of a field that are accepted; RPC, field and value are shell patterns."""

    rpcs: str
    field: str
    values: str
    reason: str


_ABSENT = ("missing", "empty")
_LONG = ("1 MB", "1 MB of non-ASCII", "1 MB of control characters")
_UNKNOWN = (*_ABSENT, *_LONG)


def _all(rpcs: str, field: str, values: tuple[str, ...], reason: str) -> list[Accepted]:
    return [Accepted(rpc, field, value, reason) for rpc in rpcs.split() for value in values]


_NIL = "an absent incarnation is the nil ULID, and an unknown index is no error for this RPC"
_NOTHING = "there is nothing of that name, which is no error for this RPC"
_OPTIONAL = "the field is optional"
_EMPTY_LIST = "an empty list is allowed"
_ANY_NUMBER = "any number of the type has a meaning"
_WRAPS = "protobuf keeps the low 32 bits of a number of 32 bits"

ACCEPTED: list[Accepted] = [
    # Index UIDs.
    *_all(
        "MarkSplitsForDeletion ListStaleSplits LastDeleteOpstamp ListDeleteTasks AcquireShards "
        "DeleteShards PruneShards ListMetricsSplits ListSketchSplits DeleteMetricsSplits "
        "DeleteSketchSplits MarkMetricsSplitsForDeletion MarkSketchSplitsForDeletion",
        "index_uid.incarnation_id",
        _ABSENT,
        _NIL,
    ),
    *_all(
        "StageMetricsSplits StageSketchSplits",
        "index_uid.incarnation_id",
        _ABSENT,
        "the index is the one that each document names",
    ),
    *_all("IndexesMetadata ListShards", "subrequests.index_uid.incarnation_id", _ABSENT, _NIL),
    *_all("IndexMetadata", "index_uid", ("missing",), "the index ID names the index"),
    *_all("IndexMetadata", "index_id", _UNKNOWN, "the index UID wins"),
    *_all("IndexesMetadata", "subrequests.index_uid", ("missing",), "the index ID wins"),
    *_all("IndexesMetadata", "subrequests.index_id", _UNKNOWN, "answered among the failures"),
    *_all("IndexesMetadata", "subrequests", ("empty",), "answered among the failures"),
    # Lists.
    *_all("IndexesMetadata OpenShards ListShards", "subrequests", ("missing",), _EMPTY_LIST),
    *_all("AcquireShards DeleteShards", "shard_ids", ("missing",), _EMPTY_LIST),
    *_all("*", "*split_ids", ("missing",), _EMPTY_LIST),
    *_all("DeleteIndexTemplates", "template_ids", ("missing", *_UNKNOWN), _NOTHING),
    *_all("FindIndexTemplateMatches", "index_ids", _UNKNOWN, _NOTHING),
    *_all("Stage*", "splits_metadata_json", ("missing",), _EMPTY_LIST),
    *_all("CreateIndex", "source_configs_json", ("missing",), _EMPTY_LIST),
    # Names of things.
    *_all("Mark* Delete* Update*", "split_ids", _UNKNOWN, _NOTHING),
    *_all("AcquireShards DeleteShards", "shard_ids", ("empty",), _NOTHING),
    *_all("AcquireShards DeleteShards", "shard_ids.shard_id", _UNKNOWN, _NOTHING),
    *_all(
        "ResetSourceCheckpoint AcquireShards DeleteShards PruneShards",
        "source_id",
        _UNKNOWN,
        _NOTHING,
    ),
    *_all("ListShards", "subrequests.source_id", _UNKNOWN, _NOTHING),
    *_all("OpenShards", "subrequests.publish_token", _ABSENT, _OPTIONAL),
    *_all("OpenShards", "subrequests.ingester_id", _ABSENT, "queue sources have no ingester"),
    *_all("AcquireShards", "publish_token", _ABSENT, "it takes shards that nobody owns"),
    *_all("Publish*", "publish_token_opt", _UNKNOWN, "the source is not tracked in shards"),
    *_all("OpenShards", "subrequests.doc_mapping_uid", ("empty",), "the nil ULID"),
    *_all("OpenShards", "subrequests.doc_mapping_uid.doc_mapping_uid", _ABSENT, "the nil ULID"),
    *_all("CreateDeleteTask", "query_ast", ("NUL", *_UNKNOWN), "the query is opaque"),
    # Numbers and flags.
    *_all("ListStaleSplits", "*s*", ("missing", "negative", "2^63", "2^32 - 1"), _ANY_NUMBER),
    *_all("UpdateSplitsDeleteOpstamp", "delete_opstamp", ("missing", "2^32 - 1"), _ANY_NUMBER),
    *_all("ListDeleteTasks", "opstamp_start", ("missing", "2^32 - 1"), _ANY_NUMBER),
    *_all("CreateDeleteTask", "*_timestamp", ("negative", "lowest", "highest"), _ANY_NUMBER),
    *_all("CreateDeleteTask", "*_timestamp", ("missing",), _OPTIONAL),
    *_all("PruneShards", "*_*s*", ("missing",), _OPTIONAL),
    *_all("PruneShards", "max_count", ("missing",), _OPTIONAL),
    *_all("PruneShards", "m*", ("negative", "2^63", "2^32 - 1"), _WRAPS),
    *_all("PruneShards", "interval_secs", ("negative", "2^63", "2^32 - 1"), _WRAPS),
    *_all(
        "OpenShards",
        "subrequests.subrequest_id",
        ("missing", "negative", "2^63", "2^32 - 1"),
        _ANY_NUMBER,
    ),
    *_all("ToggleSource", "enable", ("missing", "negative", "2"), "any number but 0 is true"),
    *_all("DeleteShards", "force", ("missing", "negative", "2"), "any number but 0 is true"),
    *_all("CreateIndexTemplate", "overwrite", ("missing", "negative", "2"), _ANY_NUMBER),
    *_all("ListShards", "subrequests.shard_state", ("missing",), _OPTIONAL),
    *_all(
        "ListShards",
        "subrequests.shard_state",
        ("unknown number", "negative"),
        "an unknown state does not filter",
    ),
    # Documents that need not be there.
    *_all("Publish*", "index_checkpoint_delta_json_opt", ("missing",), _OPTIONAL),
    *_all("UpdateIndex", "retention_policy_json_opt", ("missing",), "clears the retention"),
]

_SOURCE = {
    "missing": "enabled input_format num_pipelines transform",
    "null": "transform",
}
_SETTINGS = "indexing_settings ingest_settings search_settings retention"
_PARQUET_SPLIT = {
    "missing": "kind maturity num_merge_ops parquet_file partition_id rg_partition_prefix_len "
    "row_keys_proto sort_fields window_duration_secs window_start zonemap_regexes",
    "null": "row_keys_proto window_start",
    "1 MB": "parquet_file sort_fields",
    "empty": "parquet_file sort_fields split_id",
    "negative": "window_start",
}
_PARQUET_TEXTS = (
    "after_split_id node_id sort_fields tag_service tag_env tag_datacenter tag_region tag_host"
)
_PARQUET_QUERY = {
    "missing": f"limit max_time_range_end metric_names split_states {_PARQUET_TEXTS}",
    "null": f"limit max_time_range_end {_PARQUET_TEXTS}",
    "1 MB": _PARQUET_TEXTS,
    "empty": _PARQUET_TEXTS,
    "negative": "max_time_range_end",
}

# RPC and JSON field -> what is wrong -> the keys for which that is accepted: keys with a default,
# nullable ones, and opaque texts.
ACCEPTED_KEYS: dict[tuple[str, str], dict[str, str]] = {
    ("CreateIndex", "index_config_json"): {
        "missing": _SETTINGS,
        "null": "retention",
        "1 MB": "index_uri",
    },
    ("CreateIndex", "source_configs_json"): _SOURCE,
    ("AddSource", "source_config_json"): _SOURCE,
    ("UpdateSource", "source_config_json"): _SOURCE,
    ("CreateIndexTemplate", "index_template_json"): {
        "missing": f"description index_root_uri priority {_SETTINGS}",
        "null": "description index_root_uri retention",
        "1 MB": "description index_root_uri",
        "empty": "description",
    },
    ("ListSplits", "query_json"): {
        "missing": "after_split excluded_split_ids included_split_ids index_uids limit "
        "max_time_range_end node_id offset tags",
        "null": "after_split index_uids limit max_time_range_end node_id offset tags",
        "1 MB": "node_id",
        "empty": "node_id",
        "negative": "max_time_range_end",
    },
    ("ListMetricsSplits", "query_json"): _PARQUET_QUERY,
    ("ListSketchSplits", "query_json"): _PARQUET_QUERY,
    ("StageMetricsSplits", "splits_metadata_json"): _PARQUET_SPLIT,
    ("StageSketchSplits", "splits_metadata_json"): _PARQUET_SPLIT,
    ("StageSplits", "split_metadata_list_serialized_json"): {
        "missing": "create_timestamp delete_opstamp doc_mapping_uid maturity node_id num_merge_ops "
        "partition_id source_id tags time_range",
        "null": "node_id source_id time_range",
        "1 MB": "source_id",
        "empty": "node_id source_id split_id",
        "negative": "create_timestamp",
    },
    ("UpdateIndex", "doc_mapping_json"): {
        # A missing key has its default; where that is what the index has, nothing changes.
        "missing": "doc_mapping_uid dynamic_mapping mode store_document_size",
        "null": "dynamic_mapping",
    },
    ("UpdateIndex", "indexing_settings_json"): {
        "missing": "commit_timeout_secs docstore_blocksize docstore_compression_level merge_policy "
        "resources split_num_docs_target",
        "negative": "docstore_compression_level",
    },
    ("UpdateIndex", "ingest_settings_json"): {"missing": "min_shards validate_docs"},
    ("UpdateIndex", "search_settings_json"): {"missing": "default_search_fields"},
    ("UpdateIndex", "retention_policy_json_opt"): {"missing": "schedule"},
}

_BAD_PATTERNS = "empty and bad patterns are `Internal` in the protocol"
_NO_INDEX = "the foreign key of an unknown index is `Db` in the protocol"
_TOO_LONG = "an ID of more than 50 characters is `Db` in the protocol"
_NO_MAPPING = "a missing doc mapping UID is `Db` in the protocol"

# RPC, field, key, what is wrong -> the variant that leaves the outcome open, and why.
UNCERTAIN: dict[tuple[str, str, str, str], tuple[str, str]] = {
    **{
        (rpc, "index_id_patterns", "", what): ("Internal", _BAD_PATTERNS)
        for rpc in ("ListIndexesMetadata", "ListIndexStats")
        for what in _UNKNOWN
    },
    **{
        ("OpenShards", "subrequests.index_uid.incarnation_id", "", what): ("Db", _NO_INDEX)
        for what in _ABSENT
    },
    ("OpenShards", "subrequests.doc_mapping_uid", "", "missing"): ("Db", _NO_MAPPING),
    ("StageSplits", "split_metadata_list_serialized_json", "split_id", "1 MB"): ("Db", _TOO_LONG),
}


def is_accepted(case: Case) -> bool:
    """Whether a case is one that succeeds."""
    if case.key:
        keys = ACCEPTED_KEYS.get((case.rpc, case.field), {})
        return case.key in keys.get(case.what, "").split()
    return any(
        fnmatchcase(case.rpc, entry.rpcs)
        and fnmatchcase(case.field, entry.field)
        and case.what == entry.values
        for entry in ACCEPTED
    )


def uncertain_variant(case: Case) -> str | None:
    """Return the variant with an open outcome that a case must have, or None."""
    expected = UNCERTAIN.get((case.rpc, case.field, case.key, case.what))
    return None if expected is None else expected[0]
