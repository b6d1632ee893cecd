"""Split documents: canonical form on staging, splicing on listing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidArgument, JsonDeserializeError
from proxy.store import split_documents

NOW = 1_800_000_000
ULID = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
UID = f"web-logs:{ULID}"
NIL = "00000000000000000000000000"
STRUCT = "alloc::vec::Vec<quickwit_metastore::split_metadata::SplitMetadata>"

MINIMAL: dict[str, Any] = {
    "version": "0.9",
    "split_id": "split-1",
    "index_uid": UID,
    "num_docs": 9,
    "uncompressed_docs_size_in_bytes": 512,
    "footer_offsets": {"start": 2000, "end": 2500},
}
COMPLETE: dict[str, Any] = {
    "version": "0.9",
    "split_id": "split-1",
    "index_uid": UID,
    "partition_id": 18446744073709551615,
    "source_id": "kafka-a",
    "node_id": "indexer-1",
    "num_docs": 9,
    "uncompressed_docs_size_in_bytes": 512,
    "time_range": {"start": -5, "end": 199},
    "create_timestamp": 1787000001,
    "maturity": {"type": "immature", "maturation_period_millis": 172800999},
    "tags": ["tenant!", "tenant:7"],
    "footer_offsets": {"start": 2000, "end": 2500},
    "delete_opstamp": 3,
    "num_merge_ops": 4,
    "doc_mapping_uid": ULID,
}


def dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def staged(**changes: Any) -> split_documents.StagedSplit:
    (split,) = split_documents.parse_staged(dumped([{**MINIMAL, **changes}]), now=NOW)
    return split


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


def row(
    document: dict[str, Any] | str,
    *,
    index_uid: str = f"other:{ULID}",
    create_timestamp: int = 1787000009,
    publish_timestamp: str = "1787000043",
    head: str = "",
) -> list[str]:
    """Return what `splits/list` selects of a row."""
    published = '{"split_state":"Published","update_timestamp":1787000042,"publish_timestamp":'
    return [
        head or f"{published}{publish_timestamp}",
        str(create_timestamp),
        index_uid,
        "11",
        document if isinstance(document, str) else dumped(document),
    ]


def rendered(document: dict[str, Any] | str, **changes: Any) -> dict[str, Any]:
    text = split_documents.render_split(row(document, **changes))
    keys: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys[:] = [key for key, _ in pairs]
        return dict(pairs)

    split: dict[str, Any] = json.loads(text, object_pairs_hook=collect)
    assert len(keys) == len(set(keys)), "a key twice is an error for clients"
    return split


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


texts = st.text(max_size=12)
counts = st.integers(min_value=0, max_value=2**64 - 1)
signed = st.integers(min_value=-(2**63), max_value=2**63 - 1)
complete_documents = st.fixed_dictionaries(
    {
        "version": st.sampled_from(["0.7", "0.8", "0.9"]),
        "split_id": texts,
        "index_uid": st.just(UID),
        "partition_id": counts,
        "source_id": texts,
        "node_id": texts.filter(lambda text: "/" not in text),
        "num_docs": counts,
        "uncompressed_docs_size_in_bytes": counts,
        "time_range": st.none() | st.fixed_dictionaries({"start": signed, "end": signed}),
        "create_timestamp": signed,
        "maturity": st.just({"type": "mature"})
        | st.fixed_dictionaries({"type": st.just("immature"), "maturation_period_millis": counts}),
        "tags": st.sets(texts, max_size=4).map(sorted),
        "footer_offsets": st.fixed_dictionaries({"start": counts, "end": counts}),
        "delete_opstamp": counts,
        "num_merge_ops": counts,
        "doc_mapping_uid": st.just(ULID),
    }
)


@given(document=complete_documents)
def test_rendering_equals_parsing(document: dict[str, Any]) -> None:
    expected = {
        "split_state": "Published",
        "update_timestamp": 1787000042,
        "publish_timestamp": 1787000043,
        **document,
        "version": "0.9",
        "create_timestamp": 1787000009,
        "index_uid": f"other:{ULID}",
        "delete_opstamp": 11,
    }
    assert rendered(document) == expected


@given(items=st.lists(complete_documents, max_size=4))
def test_staging_a_list_equals_staging_it_with_spaces(items: list[dict[str, Any]]) -> None:
    def outcome(text: str) -> object:
        try:
            return split_documents.parse_staged(text, now=NOW)
        except (JsonDeserializeError, InvalidArgument) as error:
            return str(error)

    assert outcome(dumped(items)) == outcome(json.dumps(items, indent=1))
