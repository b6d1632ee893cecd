from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.config import NodeConfig, load_config

PRIMARY = "postgresql://u:primary-pw@db1/m"
REPLICA = "postgresql://u:replica-pw@db2/m"

Load = Callable[..., NodeConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a YAML text that gets a version and, unless given, a URI for the default role."""

    def run(
        text: str = "",
        *,
        environ: Mapping[str, str] | None = None,
        services: list[str] | None = None,
        bare: bool = False,
        name: str = "node.yaml",
        **options: Any,
    ) -> NodeConfig:
        lines = [text]
        if not bare:
            lines.insert(0, 'version: "0.8"')
            if "metastore_uri:" not in text:
                lines.append(f"metastore_uri: {PRIMARY}")
        path = tmp_path / name
        path.write_text("\n".join(lines), encoding="utf-8")
        return load_config(
            path, environ=environ or {}, services=services, hostname="node-1.example", **options
        )

    return run
