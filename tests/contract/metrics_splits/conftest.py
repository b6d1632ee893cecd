"""The fixtures of the cases that hold for metrics and for sketch splits."""

from __future__ import annotations

import pytest

from tests.support.access import Metastore
from tests.support.making import make_index, source_config, uid_text
from tests.support.parquet_index import INGEST, ParquetIndex
from tests.support.parquet_samples import METRICS, SKETCHES, Family


@pytest.fixture(params=[METRICS, SKETCHES], ids=["metrics", "sketch"])
def family(request: pytest.FixtureRequest) -> Family:
    """The family under test."""
    chosen: Family = request.param
    return chosen


@pytest.fixture
async def index(metastore: Metastore, family: Family) -> ParquetIndex:
    """An index with a source of each kind of checkpoint."""
    uid = await make_index(
        metastore,
        "web-logs",
        source_config("vector"),
        source_config(INGEST, "ingest"),
    )
    return ParquetIndex(metastore, family, uid, await uid_text(metastore))
