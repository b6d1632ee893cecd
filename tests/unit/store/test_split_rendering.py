"""Split documents: splicing on listing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import JsonDeserializeError
from proxy.store import split_documents
from tests.support.split_documents import COMPLETE, NIL, UID, ULID, rendered, row

EXPECTED: dict[str, Any] = {
    "split_state": "Published",
    "update_timestamp": 1787000042,
    "publish_timestamp": 1787000043,
    **COMPLETE,
    "create_timestamp": 1787000009,
    "index_uid": f"other:{ULID}",
    "delete_opstamp": 11,
}
PLAIN = {**COMPLETE, "partition_id": 0}
EXPECTED_PLAIN = {**EXPECTED, "partition_id": 0}
LARGEST_HASH = 2**64 - 1


class TestRendering:
    def test_columns_win_over_the_document(self) -> None:
        assert rendered(COMPLETE) == EXPECTED

    def test_splices_the_writers_form(self) -> None:
        assert rendered(PLAIN) == EXPECTED_PLAIN

    @pytest.mark.parametrize(
        "partition_id",
        [10**18, 10**19 - 1, 10**19, 179 * 10**17, 183 * 10**17, 18_446_699 * 10**12, LARGEST_HASH],
    )
    def test_a_partition_is_a_hash(self, partition_id: int) -> None:
        expected = {**EXPECTED, "partition_id": partition_id}
        assert rendered({**COMPLETE, "partition_id": partition_id}) == expected

    def test_writes_the_exact_text(self) -> None:
        text = split_documents.render_split(row(PLAIN))
        assert text == (
            '{"split_state":"Published","update_timestamp":1787000042,'
            '"publish_timestamp":1787000043,"version":"0.9","split_id":"split-1",'
            '"index_uid":"other:01J5ZQ3V7Y8M4N6P2R9S0T1VWX","partition_id":0,'
            '"source_id":"kafka-a","node_id":"indexer-1","num_docs":9,'
            '"uncompressed_docs_size_in_bytes":512,"time_range":{"start":-5,"end":199},'
            '"create_timestamp":1787000009,"maturity":{"type":"immature",'
            '"maturation_period_millis":172800999},"tags":["tenant!","tenant:7"],'
            '"footer_offsets":{"start":2000,"end":2500},"delete_opstamp":11,"num_merge_ops":4,'
            '"doc_mapping_uid":"01J5ZQ3V7Y8M4N6P2R9S0T1VWX"}'
        )

    def test_an_unpublished_split_has_a_null(self) -> None:
        assert rendered(PLAIN, publish_timestamp="null")["publish_timestamp"] is None

    @pytest.mark.parametrize("state", ["", "staged", "Deleted"])
    def test_refuses_an_unknown_state(self, state: str) -> None:
        with pytest.raises(JsonDeserializeError) as caught:
            split_documents.render_split(row(PLAIN, head=f"?{state}"))
        assert str(caught.value) == (
            f"failed to deserialize `SplitState` from JSON: unknown split state `{state}`"
        )

    @pytest.mark.parametrize("version", ["0.7", "0.8"])
    def test_old_documents_are_served_as_current(self, version: str) -> None:
        assert rendered({**PLAIN, "version": version}) == EXPECTED_PLAIN

    def test_a_missing_doc_mapping_uid_is_nil(self) -> None:
        document = {key: value for key, value in PLAIN.items() if key != "doc_mapping_uid"}
        expected = {**EXPECTED_PLAIN, "doc_mapping_uid": NIL}
        assert rendered({**document, "version": "0.8"}) == expected

    @pytest.mark.parametrize(
        "document",
        [
            {**PLAIN, "index_id": "web-logs:x"},
            {"index_id": UID, **{k: v for k, v in PLAIN.items() if k != "index_uid"}},
            {**PLAIN, "extra": {"index_uid": 1, "create_timestamp": 2, "delete_opstamp": 3}},
            dict(reversed(PLAIN.items())),
            {key: value for key, value in PLAIN.items() if key != "delete_opstamp"},
            {key: value for key, value in PLAIN.items() if key != "create_timestamp"},
            {**PLAIN, "node_id": "indexer-1/3"},
            {**PLAIN, "tags": ["tenant:7", "tenant!", "tenant!"], "x": []},
        ],
    )
    def test_other_forms_are_read_and_written_anew(self, document: dict[str, Any]) -> None:
        assert rendered(document) == EXPECTED_PLAIN

    def test_spaces_are_no_obstacle(self) -> None:
        assert rendered(json.dumps(PLAIN, indent=2)) == EXPECTED_PLAIN

    @pytest.mark.parametrize(
        "tag",
        [
            '],"footer_offsets":{"start":1,"end":2},"delete_opstamp":5,"num_merge_ops":1}',
            '","index_uid":"evil:',
            '"create_timestamp":1,',
            "\\",
            '\\"',
            "é 😀",
            "\u2028",
            "{}[],:",
        ],
    )
    def test_no_tag_can_break_out(self, tag: str) -> None:
        assert rendered({**PLAIN, "tags": [tag]}) == {**EXPECTED_PLAIN, "tags": [tag]}

    @pytest.mark.parametrize("text", ["{}", "[]", "null", "{", '{"version":"0.9"}'])
    def test_refuses_what_is_no_split(self, text: str) -> None:
        with pytest.raises(JsonDeserializeError) as caught:
            split_documents.render_split(row(text))
        assert caught.value.struct_name == "SplitMetadata"

    def test_refuses_an_index_uid_without_incarnation(self) -> None:
        with pytest.raises(JsonDeserializeError) as caught:
            split_documents.render_split(row(PLAIN, index_uid="old-index"))
        assert caught.value.message == "invalid index UID `old-index`"

    def test_the_documents_timestamp_is_not_used(self) -> None:
        split = rendered({**PLAIN, "create_timestamp": 1}, create_timestamp=-7)
        assert split["create_timestamp"] == -7
