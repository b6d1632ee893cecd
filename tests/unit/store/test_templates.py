"""Decoding and validation of index templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.store import template_documents
from proxy.store.template_documents import IndexTemplate


def decode(**keys: Any) -> IndexTemplate:
    document = {
        "version": "0.9",
        "template_id": "logs",
        "index_id_patterns": ["logs-*"],
        "doc_mapping": {},
        **keys,
    }
    return template_documents.decode(
        json.dumps({key: value for key, value in document.items() if value != "absent"})
    )


def problem(**keys: Any) -> str:
    with pytest.raises(errors.InvalidArgument) as caught:
        decode(**keys)
    return caught.value.message


def test_a_small_template() -> None:
    assert decode() == IndexTemplate("logs", ["logs-%"], [], 0)


def test_patterns_are_split_by_their_sign_and_turned_into_like_patterns() -> None:
    template = decode(index_id_patterns=["a*b*", "-a*x", "*", "exact_id", "-exact_id"])

    assert template.positive_patterns == ["a%b%", "%", "exact_id"]
    assert template.negative_patterns == ["a%x", "exact_id"]


@pytest.mark.parametrize("priority", [0, 1, 2**31 - 1])
def test_the_priority_is_kept(priority: int) -> None:
    assert decode(priority=priority).priority == priority


@pytest.mark.parametrize("key", ["index_root_uri", "description", "retention"])
def test_null_is_accepted_where_the_field_is_optional(key: str) -> None:
    assert decode(**{key: None}) == decode()


@pytest.mark.parametrize("key", ["version", "template_id", "index_id_patterns", "doc_mapping"])
def test_a_required_field_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(**{key: "absent"})

    assert caught.value.message == f"missing field `{key}`"


@pytest.mark.parametrize("key", ["indexing_settings", "ingest_settings", "search_settings"])
def test_null_is_refused_where_the_field_has_a_default(key: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(**{key: None})

    assert caught.value.message == f"field `{key}` is null, expected an object"


@pytest.mark.parametrize("uri", ["s3://acme/indexes", "file:///data", "ram:///indexes"])
def test_root_uris(uri: str) -> None:
    assert decode(index_root_uri=uri) == decode()


def test_a_root_uri_that_does_not_parse_cannot_be_decoded() -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(index_root_uri="gopher://acme/indexes")

    assert caught.value.message.startswith("field `index_root_uri` is no URI: ")


@pytest.mark.parametrize("pattern", ["-ab", "-a*", "a*", "abc", "*"])
def test_shortest_patterns(pattern: str) -> None:
    assert decode(index_id_patterns=[pattern])


@pytest.mark.parametrize("pattern", ["", "-", "ab", "-a", "a b*", "1a*", "--a*", "a**", "logs\n"])
def test_patterns_that_are_not_valid(pattern: str) -> None:
    message = problem(index_id_patterns=["logs-*", pattern])

    assert message.startswith("invalid index template `logs`: `index ID pattern `")


def test_the_id_is_checked_before_the_patterns_and_these_before_the_settings() -> None:
    wrong = {
        "index_id_patterns": [],
        "retention": {"period": "7 days"},
    }

    assert "template ID `x` is invalid" in problem(template_id="x", **wrong)
    assert problem(**wrong) == (
        "invalid index template `logs`: ``index_id_patterns` must not be empty`"
    )


def test_a_retention_period_that_is_no_duration_is_not_valid() -> None:
    mapping = {
        "field_mappings": [{"name": "ts", "type": "datetime", "fast": True}],
        "timestamp_field": "ts",
    }

    assert decode(doc_mapping=mapping, retention={"period": "7 days"})
    assert "retention" in problem(doc_mapping=mapping, retention={"period": "soon"})


def test_default_search_fields_must_be_in_the_mapping() -> None:
    assert problem(
        doc_mapping={"mode": "strict"}, search_settings={"default_search_fields": ["nope"]}
    ).startswith("invalid index template `logs`: ")
