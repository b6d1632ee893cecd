"""Split documents: canonical form on staging."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import InvalidArgument, JsonDeserializeError
from proxy.store import split_documents
from tests.support.split_documents import COMPLETE, MINIMAL, NIL, NOW, UID, ULID, dumped, staged

STRUCT = "alloc::vec::Vec<quickwit_metastore::split_metadata::SplitMetadata>"


def stored(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(staged(**changes).metadata_json)
    return document


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in COMPLETE.items() if name != key}


def problem(value: object) -> str:
    with pytest.raises(JsonDeserializeError) as caught:
        split_documents.parse_staged(dumped(value), now=NOW)
    assert caught.value.struct_name == STRUCT
    return caught.value.message


class TestStaging:
    def test_fills_every_default(self) -> None:
        assert stored() == {
            "version": "0.9",
            "split_id": "split-1",
            "index_uid": UID,
            "partition_id": 0,
            "source_id": "unknown",
            "node_id": "unknown",
            "num_docs": 9,
            "uncompressed_docs_size_in_bytes": 512,
            "time_range": None,
            "create_timestamp": NOW,
            "maturity": {"type": "mature"},
            "tags": [],
            "footer_offsets": {"start": 2000, "end": 2500},
            "delete_opstamp": 0,
            "num_merge_ops": 0,
            "doc_mapping_uid": NIL,
        }

    def test_keeps_a_complete_document_and_its_key_order(self) -> None:
        assert staged(**COMPLETE).metadata_json == dumped(COMPLETE)

    def test_derives_the_columns(self) -> None:
        split = staged(**COMPLETE)
        assert split == split_documents.StagedSplit(
            split_id="split-1",
            time_range_start=-5,
            time_range_end=199,
            tags_json='["tenant!","tenant:7"]',
            metadata_json=dumped(COMPLETE),
            delete_opstamp=3,
            maturity_timestamp=1787000001 + 172800,
            node_id="indexer-1",
        )

    @pytest.mark.parametrize("version", ["0.7", "0.8", "0.9"])
    def test_reads_three_versions_and_writes_the_last(self, version: str) -> None:
        assert stored(version=version)["version"] == "0.9"

    @pytest.mark.parametrize(
        ("given_id", "kept"),
        [
            ("indexer-1", "indexer-1"),
            ("indexer-1/0", "indexer-1"),
            ("a/b/1", "a/b"),
            ("/1", ""),
            (None, "unknown"),
            ("", ""),
        ],
    )
    def test_cuts_the_pipeline_off_the_node_id(self, given_id: str | None, kept: str) -> None:
        split = staged(node_id=given_id)
        assert split.node_id == kept
        assert json.loads(split.metadata_json)["node_id"] == kept

    @pytest.mark.parametrize(("given_id", "kept"), [(None, "unknown"), ("", ""), ("s", "s")])
    def test_names_a_missing_source_unknown(self, given_id: str | None, kept: str) -> None:
        assert stored(source_id=given_id)["source_id"] == kept

    def test_sorts_tags_by_bytes_and_drops_duplicates(self) -> None:
        tags = ["b", "é", "a", "b", "Z", "😀", "\uffee"]
        assert stored(tags=tags)["tags"] == ["Z", "a", "b", "é", "\uffee", "😀"]

    def test_drops_unknown_keys(self) -> None:
        assert "extra" not in stored(extra={"a": 1})
        assert stored(maturity={"type": "mature", "extra": 1})["maturity"] == {"type": "mature"}

    def test_accepts_both_aliases(self) -> None:
        document = {k: v for k, v in MINIMAL.items() if not k.startswith(("index", "uncompr"))}
        document |= {"index_id": UID, "size_in_bytes": 77}
        (split,) = split_documents.parse_staged(dumped([document]), now=NOW)
        read = json.loads(split.metadata_json)
        assert read["index_uid"] == UID
        assert read["uncompressed_docs_size_in_bytes"] == 77
        assert "index_id" not in read
        assert "size_in_bytes" not in read

    def test_upper_cases_ulids(self) -> None:
        document = stored(index_uid=UID.replace(ULID, ULID.lower()), doc_mapping_uid=ULID.lower())
        assert (document["index_uid"], document["doc_mapping_uid"]) == (UID, ULID)

    @pytest.mark.parametrize(
        ("maturity", "created", "expected"),
        [
            ({"type": "mature"}, 100, 0),
            ({"type": "immature", "maturation_period_millis": 0}, 100, 100),
            ({"type": "immature", "maturation_period_millis": 1999}, 100, 101),
            ({"type": "immature", "maturation_period_millis": 2000}, -100, -98),
            ({"type": "immature", "maturation_period_millis": 2**64 - 1}, 2**63 - 1, 2**63 - 1),
        ],
    )
    def test_computes_maturity_in_whole_seconds(
        self, maturity: dict[str, Any], created: int, expected: int
    ) -> None:
        split = staged(maturity=maturity, create_timestamp=created)
        assert split.maturity_timestamp == expected

    @pytest.mark.parametrize("text", ["[]", " [ ] ", "[\n]"])
    def test_an_empty_list_is_no_split(self, text: str) -> None:
        assert split_documents.parse_staged(text, now=NOW) == []

    def test_both_paths_agree_on_a_list(self) -> None:
        plain = {**COMPLETE, "partition_id": 0}
        documents = [{**plain, "split_id": f"s{number}", "tags": []} for number in range(3)]
        documents.append({**plain, "time_range": None, "maturity": {"type": "mature"}})
        fast = split_documents.parse_staged(dumped(documents), now=NOW)
        slow = split_documents.parse_staged(json.dumps(documents, indent=1), now=NOW)
        assert fast == slow
        assert [split.metadata_json for split in fast] == [dumped(item) for item in documents]

    @pytest.mark.parametrize(
        "key",
        [
            "version",
            "split_id",
            "index_uid",
            "num_docs",
            "uncompressed_docs_size_in_bytes",
            "footer_offsets",
        ],
    )
    def test_names_a_missing_key(self, key: str) -> None:
        assert problem([without(key)]) == f"missing field `{key}`"

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"version": "0.6"}, "version"),
            ({"version": "1.0"}, "unknown variant `1.0`"),
            ({"version": 9}, "version"),
            ({"split_id": 7}, "split_id"),
            ({"split_id": None}, "split_id"),
            ({"index_uid": "web-logs"}, "invalid index UID `web-logs`"),
            ({"index_uid": "web-logs:short"}, "invalid index UID `web-logs:short`"),
            ({"index_uid": None}, "index_uid"),
            ({"partition_id": -1}, "partition_id"),
            ({"partition_id": 2**64}, "partition_id"),
            ({"partition_id": None}, "partition_id"),
            ({"source_id": 3}, "source_id"),
            ({"node_id": []}, "node_id"),
            ({"num_docs": "9"}, "num_docs"),
            ({"num_docs": 9.0}, "num_docs"),
            ({"num_docs": True}, "num_docs"),
            ({"uncompressed_docs_size_in_bytes": -1}, "uncompressed_docs_size_in_bytes"),
            ({"size_in_bytes": 3}, "duplicate field `uncompressed_docs_size_in_bytes`"),
            ({"index_id": UID}, "duplicate field `index_uid`"),
            ({"time_range": [1, 2]}, "time_range"),
            ({"time_range": {"start": 1}}, "time_range.end"),
            ({"time_range": {"start": 1, "end": 2**63}}, "time_range.end"),
            ({"time_range": {"start": 1, "end": 2, "x": 3}}, "time_range.x"),
            ({"create_timestamp": "now"}, "create_timestamp"),
            ({"create_timestamp": None}, "create_timestamp"),
            ({"create_timestamp": -(2**63) - 1}, "create_timestamp"),
            ({"maturity": "mature"}, "maturity"),
            ({"maturity": None}, "maturity"),
            ({"maturity": {"type": "ripe"}}, "unknown variant `ripe`"),
            ({"maturity": {"type": "immature"}}, "maturity.maturation_period_millis"),
            ({"tags": None}, "tags"),
            ({"tags": ["a", 1]}, "tags"),
            ({"footer_offsets": {"start": 0}}, "footer_offsets.end"),
            ({"footer_offsets": {"start": -1, "end": 2}}, "footer_offsets.start"),
            ({"footer_offsets": None}, "footer_offsets"),
            ({"delete_opstamp": -1}, "delete_opstamp"),
            ({"num_merge_ops": 1.5}, "num_merge_ops"),
            ({"doc_mapping_uid": None}, "doc_mapping_uid"),
            ({"doc_mapping_uid": "x"}, "doc mapping UID `x`"),
        ],
    )
    def test_names_a_wrong_field(self, changes: dict[str, Any], words: str) -> None:
        assert words in problem([{**COMPLETE, **changes}])

    @pytest.mark.parametrize("value", [{}, None, 3, "x", [1], [None], [[]], [COMPLETE, 3]])
    def test_refuses_other_json(self, value: object) -> None:
        assert "invalid type" in problem(value)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[",
            "[{",
            "[{}",
            dumped([COMPLETE])[:-1],
            dumped([COMPLETE]) + "]",
            dumped([COMPLETE])[:-1] + ",]",
            dumped([{**COMPLETE, "partition_id": 1}])[:-1],
            dumped([{**COMPLETE, "partition_id": 1}]) + "x",
            dumped([{**COMPLETE, "partition_id": 1}])[:-1] + ",",
            dumped([{**COMPLETE, "partition_id": 1}]).replace('"tenant!"', '"tenant!'),
            dumped([{**COMPLETE, "partition_id": 1}]).replace(
                '"partition_id":1', '"partition_id":01'
            ),
            dumped([{**COMPLETE, "node_id": "a\x01b"}]).replace("\\u0001", "\x01"),
            '[{"split_id":"\\ud800"}]',
            "[NaN]",
        ],
    )
    def test_refuses_what_is_no_json(self, text: str) -> None:
        with pytest.raises(JsonDeserializeError):
            split_documents.parse_staged(text, now=NOW)

    @pytest.mark.parametrize(
        "changes",
        [
            {"delete_opstamp": 2**63},
            {"footer_offsets": {"start": 0, "end": 2**63}},
            {"tags": ["a\0b"]},
        ],
    )
    def test_refuses_what_a_column_cannot_hold(self, changes: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument):
            staged(**changes)
