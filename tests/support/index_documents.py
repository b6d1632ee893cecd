"""Index and source documents for tests, from `tests/facts`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FACTS = Path(__file__).parent.parent / "facts"


def web_logs_config(index_id: str = "web-logs") -> dict[str, Any]:
    """Return a complete index config in canonical form."""
    config: dict[str, Any] = json.loads((_FACTS / "index_config_web_logs.json").read_text("utf-8"))
    return config | {"index_id": index_id}


def metadata_text(version: str) -> str:
    """Return stored metadata as version 0.7 or 0.8 wrote it, with a few keys that nobody knows."""
    path = _FACTS / f"metadata_{version.replace('.', '_')}.json"
    return compact(json.loads(path.read_text("utf-8")))


def metadata(version: str) -> dict[str, Any]:
    """Return `metadata_text` parsed."""
    document: dict[str, Any] = json.loads(metadata_text(version))
    return document


def compact(value: object) -> str:
    """Return JSON text as the store writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def kafka_config(source_id: str = "kafka-a", **changes: Any) -> dict[str, Any]:
    """Return the config of a Kafka source in canonical form."""
    return {
        "version": "0.9",
        "source_id": source_id,
        "num_pipelines": 2,
        "enabled": True,
        "source_type": "kafka",
        "params": {"topic": "orders", "client_params": {"bootstrap.servers": "k:9092"}},
        "input_format": "json",
    } | changes
