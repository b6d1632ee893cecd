"""What UpdateIndex changes in the metadata, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import index_configs, index_update
from proxy.store.index_metadata import IndexMetadata
from tests.support.index_documents import metadata, web_logs_config

NEW_UID = "01K33Z58DJRFAEBXG71GMKMJTW"
NIL = "00000000000000000000000000"
Change = Callable[[dict[str, Any]], None]


def request(config: dict[str, Any]) -> pb.UpdateIndexRequest:
    """Return the update that asks for the parts of a config."""
    update = pb.UpdateIndexRequest(
        doc_mapping_json=json.dumps(config["doc_mapping"]),
        indexing_settings_json=json.dumps(config["indexing_settings"]),
        ingest_settings_json=json.dumps(config["ingest_settings"]),
        search_settings_json=json.dumps(config["search_settings"]),
    )
    if config["retention"] is not None:
        update.retention_policy_json_opt = json.dumps(config["retention"])
    return update


def stored(config: dict[str, Any]) -> IndexMetadata:
    return IndexMetadata(
        {
            "version": "0.9",
            "index_uid": "web-logs:01J5ZQ3V7Y8M4N6P2R9S0T1VWX",
            "index_config": config,
            "checkpoint": {},
            "create_timestamp": 1,
            "sources": [],
        }
    )


def apply(current: IndexMetadata, wanted: dict[str, Any]) -> bool:
    return index_update.apply(current, index_update.decode(request(wanted)))


def old(version: str) -> tuple[IndexMetadata, dict[str, Any]]:
    """Return stored metadata of an older version, and its config as a client reads it."""
    document = metadata(version)
    config = json.loads(json.dumps(document["index_config"]))
    config.pop("x_beta", None)
    return IndexMetadata(document), index_configs.decode(json.dumps(config))


def test_the_same_config_changes_nothing() -> None:
    current = stored(web_logs_config())

    assert apply(current, web_logs_config()) is False
    assert current.config == web_logs_config()


def test_the_uid_alone_is_no_difference() -> None:
    current, wanted = stored(web_logs_config()), web_logs_config()
    wanted["doc_mapping"]["doc_mapping_uid"] = NEW_UID

    assert apply(current, wanted) is False
    assert current.config == web_logs_config()


def set_in(path: str, value: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        target: Any = config
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_in("indexing_settings/merge_policy/maturation_period", "48h"),
        set_in("indexing_settings/resources/heap_size", "1.5 GB"),
        set_in("indexing_settings/resources/max_merge_write_throughput", "1 MB"),
        set_in("indexing_settings/docstore_blocksize", ...),
        set_in("indexing_settings/merge_policy/max_finalize_merge_operations", 0),
        set_in("doc_mapping/dynamic_mapping", ...),
        set_in("doc_mapping/mode", ...),
        set_in("doc_mapping/store_document_size", ...),
        set_in("doc_mapping/tag_fields", ["tenant", "host", "tenant"]),
        set_in("doc_mapping/field_mappings/0/input_formats", []),
        set_in("doc_mapping/field_mappings/0/output_format", ...),
        set_in("doc_mapping/field_mappings/1/fieldnorms", ...),
        set_in("doc_mapping/field_mappings/3/coerce", ...),
        set_in("doc_mapping/field_mappings/4/field_mappings/1/fast", ...),
        set_in("doc_mapping/tokenizers/1/filters", ...),
    ],
)
@pytest.mark.parametrize("side", ["stored", "asked"])
def test_what_means_the_same_is_no_difference(change: Change, side: str) -> None:
    config = web_logs_config()
    change(config)
    current = stored(config if side == "stored" else web_logs_config())
    before = current.dump()

    assert apply(current, web_logs_config() if side == "stored" else config) is False
    assert current.dump() == before


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("indexing_settings/commit_timeout_secs", 5, "indexing_settings"),
        ("indexing_settings/resources/heap_size", 7_000_000, "indexing_settings"),
        ("indexing_settings/merge_policy", {"type": "no_merge"}, "indexing_settings"),
        ("indexing_settings/parquet_indexing", {"x": 1}, "indexing_settings"),
        ("ingest_settings/min_shards", 9, "ingest_settings"),
        ("ingest_settings", {"min_shards": 3}, "ingest_settings"),
        ("search_settings/default_search_fields", [], "search_settings"),
        ("search_settings/default_search_fields", ["not-checked"], "search_settings"),
        ("retention", None, "retention"),
        ("retention/period", "7 days", "retention"),
        ("retention/schedule", "0 0 * * * *", "retention"),
    ],
)
def test_each_part_is_replaced_alone(path: str, value: Any, key: str) -> None:
    current, wanted = stored(web_logs_config()), web_logs_config()
    set_in(path, value)(wanted)

    assert apply(current, wanted) is True
    assert current.config == web_logs_config() | {key: wanted[key]}


def test_retention_can_be_added_without_further_checks() -> None:
    config = web_logs_config() | {"retention": None}
    current = stored(config)

    assert apply(current, config | {"retention": {"period": "3 days"}}) is True
    assert current.config["retention"] == {"period": "3 days", "schedule": "hourly"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"retention": {"period": "whatever"}}, "field `retention.period` must be a duration"),
        ({"retention": {"period": "3 days", "schedule": "now"}}, "evaluation schedule `now`"),
        (
            {"indexing_settings": {"merge_policy": {"type": "stable_log", "merge_factor": 13}}},
            "merge policy `max_merge_factor` (12) must be at least `merge_factor` (13)",
        ),
    ],
)
def test_settings_that_no_reader_accepts_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        apply(stored(web_logs_config()), web_logs_config() | changes)

    assert words in caught.value.message


def changed_mapping(**changes: Any) -> dict[str, Any]:
    config = web_logs_config()
    config["doc_mapping"] |= {"doc_mapping_uid": NEW_UID, "max_num_partitions": 7} | changes
    return config


def test_a_different_mapping_is_stored_with_its_uid() -> None:
    current = stored(web_logs_config())

    assert apply(current, changed_mapping()) is True
    assert current.config == changed_mapping()


def test_the_older_mapping_can_come_back_with_its_old_uid() -> None:
    current = stored(web_logs_config())
    apply(current, changed_mapping())

    assert apply(current, web_logs_config()) is True
    assert current.config == web_logs_config()


def test_a_different_mapping_without_uid_gets_a_random_one() -> None:
    current, wanted = stored(web_logs_config()), changed_mapping()
    del wanted["doc_mapping"]["doc_mapping_uid"]

    assert apply(current, wanted) is True
    assert current.config["doc_mapping"]["doc_mapping_uid"] not in {
        NIL,
        web_logs_config()["doc_mapping"]["doc_mapping_uid"],
    }


def test_the_order_of_fields_is_a_difference() -> None:
    config = changed_mapping(max_num_partitions=64)
    config["doc_mapping"]["field_mappings"].reverse()

    assert apply(stored(web_logs_config()), config) is True


def test_a_tokenizer_can_be_added() -> None:
    added = [
        *web_logs_config()["doc_mapping"]["tokenizers"],
        {"name": "code", "type": "source_code"},
    ]
    current = stored(web_logs_config())

    assert apply(current, changed_mapping(tokenizers=added)) is True
    assert [item["name"] for item in current.config["doc_mapping"]["tokenizers"]] == [
        "words",
        "grams",
        "code",
    ]


OLD_UID = "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_mapping_uid": OLD_UID}, "new doc mapping UID should differ from the current one"),
        (
            {"doc_mapping_uid": OLD_UID.lower()},
            "new doc mapping UID should differ from the current one",
        ),
        (
            {"timestamp_field": None},
            "updating timestamp field is not allowed: the current one is `ts`, the new one is `no",
        ),
        (
            {"timestamp_field": "o"},
            "updating timestamp field is not allowed: the current one is `ts`, the new one is `o`",
        ),
        ({"tokenizers": []}, "updating tokenizers is allowed only by adding new ones"),
        (
            {
                "tokenizers": [
                    {"name": "words", "type": "regex", "pattern": "other"},
                    {"name": "grams", "type": "ngram", "min_gram": 2, "max_gram": 4},
                ]
            },
            "updating tokenizers is allowed only by adding new ones",
        ),
        ({"tag_fields": ["nobody"]}, "invalid doc mapping"),
        ({"field_mappings": []}, "invalid doc mapping"),
    ],
)
def test_a_mapping_that_cannot_follow_is_refused(changes: dict[str, Any], message: str) -> None:
    current = stored(web_logs_config())

    with pytest.raises(errors.InvalidArgument) as caught:
        apply(current, changed_mapping(**changes))

    assert caught.value.message.startswith(message)
    assert current.config == web_logs_config()


def test_the_invalid_doc_mapping_has_no_further_text() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        apply(stored(web_logs_config()), changed_mapping(tag_fields=["nobody"]))

    assert caught.value.message == "invalid doc mapping"


def test_a_changed_mapping_is_checked_with_the_new_search_settings() -> None:
    wanted = changed_mapping()
    wanted["search_settings"] = {"default_search_fields": ["digest"]}

    with pytest.raises(errors.InvalidArgument, match="invalid doc mapping"):
        apply(stored(web_logs_config()), wanted)


@pytest.mark.parametrize("version", ["0.7", "0.8"])
@pytest.mark.parametrize("uid", [NIL, NEW_UID])
def test_an_older_config_equals_what_clients_make_of_it(version: str, uid: str) -> None:
    current, wanted = old(version)
    wanted["doc_mapping"]["doc_mapping_uid"] = uid

    assert apply(current, wanted) is False
    assert current.document == metadata(version)


@pytest.mark.parametrize("version", ["0.7", "0.8"])
def test_settings_of_an_older_config_change_without_its_tag(version: str) -> None:
    current, wanted = old(version)
    wanted["ingest_settings"] = {"min_shards": 4}

    assert apply(current, wanted) is True
    expected = metadata(version)
    expected["index_config"]["ingest_settings"] = {"min_shards": 4}
    assert current.document == expected


@pytest.mark.parametrize("version", ["0.7", "0.8"])
def test_a_new_mapping_in_an_older_config_moves_the_tag(version: str) -> None:
    current, wanted = old(version)
    wanted["doc_mapping"] |= {"doc_mapping_uid": NEW_UID, "store_source": True}

    assert apply(current, wanted) is True
    assert current.config["version"] == "0.9"
    assert current.config["doc_mapping"] == wanted["doc_mapping"]
    assert current.document["version"] == version
    assert current.document["x_future"] == metadata(version)["x_future"]


@pytest.mark.parametrize("version", ["0.7", "0.8"])
def test_the_uid_of_an_older_config_is_nil(version: str) -> None:
    current, wanted = old(version)
    wanted["doc_mapping"] |= {"doc_mapping_uid": NIL, "store_source": True}

    with pytest.raises(errors.InvalidArgument, match="new doc mapping UID should differ"):
        apply(current, wanted)


def test_unknown_keys_of_a_stored_mapping_are_no_difference_and_stay() -> None:
    config = web_logs_config()
    config["doc_mapping"]["x_new"] = {"a": 1}
    config["doc_mapping"]["field_mappings"][0]["x_new"] = True
    current = stored(config)

    assert apply(current, web_logs_config()) is False
    assert current.config["doc_mapping"]["x_new"] == {"a": 1}


def test_a_stored_mapping_of_an_unknown_kind_can_be_replaced() -> None:
    config = web_logs_config()
    config["doc_mapping"]["mode"] = "telepathic"
    current = stored(config)

    assert apply(current, changed_mapping()) is True
    assert current.config == changed_mapping()


@pytest.mark.parametrize("key", ["indexing_settings", "search_settings", "retention"])
def test_stored_settings_of_an_unknown_kind_are_replaced(key: str) -> None:
    config = web_logs_config()
    config[key] = {"merge_policy": 1, "default_search_fields": 2, "period": 3}
    current = stored(config)

    assert apply(current, web_logs_config()) is True
    assert current.config == web_logs_config()


@pytest.mark.parametrize(
    ("field", "struct"),
    [
        ("doc_mapping_json", "quickwit_doc_mapper::doc_mapping::DocMapping"),
        ("indexing_settings_json", "quickwit_config::index_config::IndexingSettings"),
        ("ingest_settings_json", "quickwit_config::index_config::IngestSettings"),
        ("search_settings_json", "quickwit_config::index_config::SearchSettings"),
        ("retention_policy_json_opt", "quickwit_config::index_config::RetentionPolicy"),
    ],
)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("null", "invalid type: null, expected an object"),
        ('{"x":1}', "unknown field `x`"),
    ],
)
def test_a_malformed_part_names_its_struct(
    field: str, struct: str, text: str, message: str
) -> None:
    update = request(web_logs_config())
    setattr(update, field, text)

    with pytest.raises(errors.JsonDeserializeError) as caught:
        index_update.decode(update)

    assert (caught.value.struct_name, caught.value.message) == (struct, message)
