"""Split documents of any content: splicing and staging are what parsing gives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidArgument, JsonDeserializeError
from proxy.store import split_documents
from tests.support.split_documents import NOW, UID, ULID, dumped, rendered

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
