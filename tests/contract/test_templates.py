"""Index templates: create, get, list, delete, and what is not valid."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_templates import create, delete, find, template

STRUCT = "quickwit_config::index_template::IndexTemplate"


async def get(metastore: Metastore, template_id: str) -> str:
    request = pb.GetIndexTemplateRequest(template_id=template_id)
    return str((await metastore.call("GetIndexTemplate", request)).index_template_json)


async def list_all(metastore: Metastore) -> list[str]:
    response = await metastore.call("ListIndexTemplates", pb.ListIndexTemplatesRequest())
    return list(response.index_templates_json)


# Create, get, list, delete


async def test_a_template_is_stored_as_it_was_sent(metastore: Metastore) -> None:
    text = template("logs", "logs-*", description="für Logs", retention=None, priority=7)

    await create(metastore, text)

    assert await get(metastore, "logs") == text


async def test_the_columns_of_a_template(metastore: Metastore) -> None:
    await create(metastore, template("logs", "logs-*", "-logs-x*y", "exact_1", "-*", priority=7))

    row = await metastore.sql.fetchrow("SELECT * FROM index_templates")
    assert row is not None
    assert row["positive_index_id_patterns"] == ["logs-%", "exact_1"]
    assert row["negative_index_id_patterns"] == ["logs-x%y", "%"]
    assert row["priority"] == 7


async def test_the_priority_is_0_by_default(metastore: Metastore) -> None:
    await create(metastore, template())

    assert await metastore.sql.fetchval("SELECT priority FROM index_templates") == 0


@pytest.mark.parametrize("version", ["0.7", "0.8", "0.9"])
async def test_each_version_of_a_template_is_accepted(metastore: Metastore, version: str) -> None:
    await create(metastore, template(version=version))

    assert json.loads(await get(metastore, "logs"))["version"] == version


async def test_creating_a_template_again_already_exists(metastore: Metastore) -> None:
    text = template()
    await create(metastore, text)

    with pytest.raises(errors.AlreadyExists) as caught:
        await create(metastore, template(priority=1))

    assert caught.value.entity == errors.index_template("logs")
    assert str(caught.value) == "index template `logs` already exist(s)"
    assert await get(metastore, "logs") == text


async def test_overwriting_replaces_the_whole_template(metastore: Metastore) -> None:
    await create(metastore, template("logs", "logs-*", "-logs-x*", priority=9))
    text = template("logs", "metrics-*")

    await create(metastore, text, overwrite=True)
    await create(metastore, text, overwrite=True)

    row = await metastore.sql.fetchrow("SELECT * FROM index_templates")
    assert row is not None
    assert row["positive_index_id_patterns"] == ["metrics-%"]
    assert row["negative_index_id_patterns"] == []
    assert row["priority"] == 0
    assert await get(metastore, "logs") == text


async def test_overwriting_creates_a_template_that_is_not_there(metastore: Metastore) -> None:
    await create(metastore, template(), overwrite=True)

    assert await list_all(metastore) == [template()]


async def test_of_concurrent_creations_one_succeeds(metastore: Metastore) -> None:
    outcomes = await asyncio.gather(
        *(create(metastore, template(priority=n)) for n in range(6)), return_exceptions=True
    )

    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, errors.AlreadyExists) for outcome in outcomes) == 5


async def test_a_template_that_is_not_there_is_not_found(metastore: Metastore) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await get(metastore, "nobody")

    assert caught.value.entity == errors.index_template("nobody")


async def test_templates_are_listed_by_id(metastore: Metastore) -> None:
    texts = {name: template(name) for name in ("bbb", "ccc", "aaa")}
    for text in texts.values():
        await create(metastore, text)

    assert await list_all(metastore) == [texts["aaa"], texts["bbb"], texts["ccc"]]


async def test_no_templates_are_an_empty_list(metastore: Metastore) -> None:
    assert await list_all(metastore) == []


async def test_deleting_templates_leaves_the_others(metastore: Metastore) -> None:
    for name in ("aaa", "bbb", "ccc"):
        await create(metastore, template(name))

    await delete(metastore, "aaa", "ccc", "nobody")
    await delete(metastore, "aaa", "ccc", "nobody")

    assert await list_all(metastore) == [template("bbb")]


async def test_deleting_no_template_changes_nothing(metastore: Metastore) -> None:
    await create(metastore, template())

    await delete(metastore)

    assert await list_all(metastore) == [template()]


# Refused templates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "invalid type: a list of 0 elements, expected an object"),
        ("{}", "missing field `version`"),
        (template(version="0.6"), "unknown version `0.6`, expected one of `0.7`, `0.8`, `0.9`"),
        (template(extra=1), "unknown field `extra`"),
        (template(template_id=1), "field `template_id` is an integer, expected a string"),
        (
            template(index_id_patterns="logs-*"),
            "field `index_id_patterns` is a string of 6 characters, expected a list of strings",
        ),
        (
            template(priority=-1),
            "field `priority` is out of range: -1 is not between 0 and 18446744073709551615",
        ),
        (
            template(priority=1.5),
            "field `priority` is a floating point number, expected an integer",
        ),
        (template(description=1), "field `description` is an integer, expected a string"),
        (template(doc_mapping=None), "field `doc_mapping` is null, expected an object"),
        (template(doc_mapping={"colour": 1}), "unknown field `doc_mapping.colour`"),
        (
            template(search_settings={"fields": []}),
            "unknown field `search_settings.fields`",
        ),
        (
            template(ingest_settings={"min_shards": 0}),
            (
                "field `ingest_settings.min_shards` is out of range: 0 is not between 1 and "
                "18446744073709551615"
            ),
        ),
        (template(indexing_settings={"speed": 1}), "unknown field `indexing_settings.speed`"),
        (template(retention={}), "missing field `retention.period`"),
    ],
)
async def test_a_document_that_is_no_template_cannot_be_decoded(
    metastore: Metastore, text: str, message: str
) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        await create(metastore, text)

    assert (caught.value.struct_name, caught.value.message) == (STRUCT, message)
    assert await list_all(metastore) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            template("lo"),
            (
                "template ID `lo` is invalid: identifiers must match the following regular "
                r"expression: `^[a-zA-Z][a-zA-Z0-9-_\.]{2,254}$`"
            ),
        ),
        (
            template("logs\n"),
            (
                "template ID `logs\n` is invalid: identifiers must match the following regular "
                r"expression: `^[a-zA-Z][a-zA-Z0-9-_\.]{2,254}$`"
            ),
        ),
        (template(index_id_patterns=[]), "`index_id_patterns` must not be empty"),
        (
            template("logs", "logs-**"),
            "index ID pattern `logs-**` is invalid: patterns must not contain `**`",
        ),
        (
            template("logs", "logs-*", "--x*"),
            (
                "index ID pattern `-x*` is invalid: patterns must match the following regular "
                r"expression: `^[a-zA-Z\*][a-zA-Z0-9-_\.\*]{0,254}$`"
            ),
        ),
        (
            template("logs", "ab"),
            "index ID pattern `ab` is invalid: an index ID must have at least 3 characters",
        ),
        (
            template(priority=2**31),
            "`priority` must be at most 2147483647, got 2147483648",
        ),
        (
            template(
                indexing_settings={
                    "merge_policy": {
                        "type": "stable_log",
                        "merge_factor": 10,
                        "max_merge_factor": 9,
                    }
                }
            ),
            "merge policy `max_merge_factor` (9) must be at least `merge_factor` (10)",
        ),
        (
            template(doc_mapping={}, retention={"period": "7 days"}),
            "retention policy requires a timestamp field, but the doc mapping does not declare one",
        ),
    ],
)
async def test_a_template_that_is_not_valid_is_an_invalid_argument(
    metastore: Metastore, text: str, problem: str
) -> None:
    template_id = json.loads(text)["template_id"]

    with pytest.raises(errors.InvalidArgument) as caught:
        await create(metastore, text)

    assert caught.value.message == f"invalid index template `{template_id}`: `{problem}`"
    assert await list_all(metastore) == []


async def test_a_mapping_whose_timestamp_field_is_missing_is_not_valid(
    metastore: Metastore,
) -> None:
    with pytest.raises(errors.InvalidArgument):
        await create(metastore, template(doc_mapping={"timestamp_field": "nope"}))


async def test_the_longest_identifier_is_accepted(metastore: Metastore) -> None:
    name = "t" * 255

    await create(metastore, template(name, "p" * 255))

    assert await find(metastore, "p" * 255) == {"p" * 255: name}


async def test_the_dash_of_a_negative_pattern_counts_for_its_length(metastore: Metastore) -> None:
    await create(metastore, template("logs", "logs-*", "-ab"))

    assert await find(metastore, "logs-1") == {"logs-1": "logs"}


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("GetIndexTemplate", pb.GetIndexTemplateRequest(template_id="a\x00")),
        ("FindIndexTemplateMatches", pb.FindIndexTemplateMatchesRequest(index_ids=["a\x00"])),
        ("DeleteIndexTemplates", pb.DeleteIndexTemplatesRequest(template_ids=["a\x00"])),
    ],
)
async def test_a_nul_character_is_an_invalid_argument(
    metastore: Metastore, rpc: str, request_: Any
) -> None:
    with pytest.raises(errors.InvalidArgument):
        await metastore.call(rpc, request_)
