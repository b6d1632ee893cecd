"""Index templates as tests write them, and the calls on them."""

from __future__ import annotations

import json
from typing import Any

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore


def template(template_id: str = "logs", *patterns: str, **keys: Any) -> str:
    """Return the JSON of a template, its keys in an order and a spacing of our own."""
    return json.dumps(
        {
            "template_id": template_id,
            "version": "0.9",
            "index_id_patterns": list(patterns) or ["logs-*"],
            "doc_mapping": {
                "field_mappings": [{"name": "ts", "type": "datetime", "fast": True}],
                "timestamp_field": "ts",
            },
            **keys,
        },
        indent=1,
    )


async def create(metastore: Metastore, text: str, *, overwrite: bool = False) -> None:
    request = pb.CreateIndexTemplateRequest(index_template_json=text, overwrite=overwrite)
    assert await metastore.call("CreateIndexTemplate", request) == pb.EmptyResponse()


async def find(metastore: Metastore, *index_ids: str) -> dict[str, str]:
    """Return the template ID for each index ID that has a match."""
    request = pb.FindIndexTemplateMatchesRequest(index_ids=index_ids)
    matches = (await metastore.call("FindIndexTemplateMatches", request)).matches
    assert len({match.index_id for match in matches}) == len(matches)
    return {match.index_id: match.template_id for match in matches}


async def delete(metastore: Metastore, *template_ids: str) -> None:
    request = pb.DeleteIndexTemplatesRequest(template_ids=template_ids)
    assert await metastore.call("DeleteIndexTemplates", request) == pb.EmptyResponse()
