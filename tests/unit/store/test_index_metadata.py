"""Stored index metadata: parsed, served and written back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.store import index_metadata
from proxy.store.index_metadata import IndexMetadata
from tests.support.index_documents import compact, metadata, metadata_text

UID = "old-logs:01HQ2W3E4R5T6Y7Q8A9S0D1F2G"


def broken(path: str, value: Any) -> str:
    """Return the 0.8 document with one field replaced, or removed for `...`."""
    document = metadata("0.8")
    *parents, last = path.split("/")
    target: Any = document
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return compact(document)


@pytest.mark.parametrize("version", ["0.7", "0.8"])
def test_documents_of_older_versions_are_read(version: str) -> None:
    parsed = IndexMetadata.parse(metadata_text(version))

    assert parsed.index_uid == UID
    assert parsed.index_id == "old-logs"
    assert parsed.checkpoint["kafka-old"] == {"00000000000000000000": "00000000000000000041"}
    assert [source["source_id"] for source in parsed.sources] == ["kafka-old"]


@pytest.mark.parametrize("version", ["0.7", "0.8"])
def test_a_document_is_written_back_byte_for_byte(version: str) -> None:
    text = metadata_text(version)

    assert IndexMetadata.parse(text).dump() == text


def test_large_integers_and_floats_survive() -> None:
    text = IndexMetadata.parse(metadata_text("0.8")).dump()

    assert '"partition_id":18446744073709551615,"ratio":0.1,"note":"ünïcode"' in text


def test_a_lower_case_ulid_is_the_same_index() -> None:
    assert IndexMetadata.parse(broken("index_uid", UID.lower())).index_uid == UID


def test_a_missing_create_timestamp_is_accepted() -> None:
    assert "create_timestamp" not in IndexMetadata.parse(broken("create_timestamp", ...)).document


def test_a_source_is_found_by_id() -> None:
    parsed = IndexMetadata.parse(metadata_text("0.8"))

    assert parsed.source("kafka-old") is parsed.sources[0]
    assert parsed.source("gone-source") is None


def test_a_source_that_must_exist_is_not_found() -> None:
    with pytest.raises(errors.NotFound) as caught:
        IndexMetadata.parse(metadata_text("0.8")).existing_source("nope")

    assert caught.value.entity == errors.source("old-logs", "nope")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("null", "invalid type: null, expected an object"),
        ("[1]", "invalid type: a list of 1 elements, expected an object"),
        ("{}", "missing field `version`"),
        (metadata_text("0.8")[:-1], "Expecting ',' delimiter"),
        (broken("version", "0.6"), "unknown version `0.6`, expected one of `0.7`, `0.8`, `0.9`"),
        (broken("version", 9), "field `version` is an integer, expected a string"),
        (broken("index_uid", ...), "missing field `index_uid`"),
        (broken("index_uid", "old-logs"), "field `index_uid` is not `<index_id>:<ULID>`"),
        (broken("index_uid", "old-logs:01"), "field `index_uid` is not `<index_id>:<ULID>`"),
        (broken("index_config", ...), "missing field `index_config`"),
        (broken("index_config/version", "1"), "unknown version `1`"),
        (broken("index_config/index_id", ...), "missing field `index_config.index_id`"),
        (broken("index_config/index_uri", ...), "missing field `index_config.index_uri`"),
        (broken("index_config/doc_mapping", []), "field `index_config.doc_mapping` is a list"),
        (broken("checkpoint", ...), "missing field `checkpoint`"),
        (broken("checkpoint/kafka-old", 1), "field `checkpoint.kafka-old` is an integer"),
        (broken("checkpoint/kafka-old", {"p": 1}), "field `checkpoint.kafka-old.p` is an integer"),
        (broken("create_timestamp", "1"), "field `create_timestamp` is a string"),
        (broken("create_timestamp", True), "field `create_timestamp` is a boolean"),
        (broken("sources", {}), "field `sources` is an object of 0 keys, expected a list"),
        (broken("sources", [1]), "invalid type: an integer, expected an object at `sources`"),
        (broken("sources/0/source_id", ...), "missing field `sources.source_id`"),
        (broken("sources/0/source_type", ...), "missing field `sources.source_type`"),
        (
            broken("sources", metadata("0.8")["sources"] * 2),
            "source `kafka-old` is defined more than once",
        ),
    ],
)
def test_a_broken_document_names_the_field(text: str, message: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        index_metadata.serve(text, 7)

    assert caught.value.struct_name == "IndexMetadata"
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize("timestamp", [1_800_000_000, 0, -5])
def test_the_column_s_create_timestamp_is_served(timestamp: int, *, seen_before: bool) -> None:
    text = metadata_text("0.8")
    if seen_before:
        index_metadata.serve(text, 1)

    served = index_metadata.serve(text, timestamp)

    assert served == text.replace(
        '"create_timestamp":1700000000', f'"create_timestamp":{timestamp}'
    )


def test_blanks_of_the_stored_text_are_kept() -> None:
    text = json.dumps(metadata("0.8"), indent=1)

    served = index_metadata.serve(text, 3)

    assert json.loads(served) == metadata("0.8") | {"create_timestamp": 3}


def test_a_missing_create_timestamp_is_added() -> None:
    served = index_metadata.serve(broken("create_timestamp", ...), 42)

    assert json.loads(served) == metadata("0.8") | {"create_timestamp": 42}


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize(
    "decoy",
    [
        {"create_timestamp": 5},
        {'a"create_timestamp': 5},
        {"note": '"create_timestamp":5'},
        [{"create_timestamp": -1.5e3}],
    ],
)
def test_another_key_of_that_name_stays(decoy: Any, *, present: bool) -> None:
    document = metadata("0.8")
    if not present:
        del document["create_timestamp"]
    text = compact({"x_decoy": decoy} | document)

    for _ in range(2):
        assert json.loads(index_metadata.serve(text, 9)) == {"x_decoy": decoy} | document | {
            "create_timestamp": 9
        }


def test_only_so_many_texts_are_remembered() -> None:
    checked = index_metadata._Checked(capacity=2)
    texts = [broken("create_timestamp", number) for number in range(4)]

    for text in [*texts, *texts]:
        place = checked(text)
        assert place is not None
        assert text[place[0] : place[1]].isdecimal()
    assert len(checked._places) == 2


@pytest.mark.parametrize(
    ("version", "uid", "expected"),
    [
        ("0.7", "01J5ZQ3V7Y8M4N6P2R9S0T1VWY", "00000000000000000000000000"),
        ("0.8", None, "00000000000000000000000000"),
        ("0.9", "01j5zq3v7y8m4n6p2r9s0t1vwy", "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"),
        ("0.9", None, None),
    ],
)
def test_the_effective_doc_mapping_uid(version: str, uid: str | None, expected: str | None) -> None:
    mapping = {} if uid is None else {"doc_mapping_uid": uid}
    config = {"version": version, "doc_mapping": mapping}

    assert index_metadata.effective_doc_mapping_uid(config) == expected
