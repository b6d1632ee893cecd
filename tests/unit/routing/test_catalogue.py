"""The catalogue against the service's descriptor and the rules of routing."""

from __future__ import annotations

from proxy.proto.quickwit import metastore_pb2
from proxy.routing.catalogue import RPCS, SERVICE

METHODS = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"].methods


def test_every_rpc_of_the_service_is_in_the_catalogue() -> None:
    assert sorted(RPCS) == sorted(method.name for method in METHODS)
    assert len(RPCS) == 43


def test_streaming_is_what_the_descriptor_says() -> None:
    streaming = {method.name for method in METHODS if method.server_streaming}
    assert {name for name, rpc in RPCS.items() if rpc.is_streaming} == streaming == {"ListSplits"}


def test_the_six_stale_tolerant_reads() -> None:
    assert {name for name, rpc in RPCS.items() if rpc.is_stale_tolerant} == {
        "IndexMetadata",
        "IndexesMetadata",
        "ListIndexesMetadata",
        "ListSplits",
        "ListMetricsSplits",
        "ListSketchSplits",
    }


def test_reads_are_idempotent_and_only_reads_are_stale_tolerant() -> None:
    for rpc in RPCS.values():
        assert rpc.is_idempotent or not rpc.is_read
        assert rpc.is_read or not rpc.is_stale_tolerant


def test_there_are_fourteen_reads() -> None:
    assert sum(rpc.is_read for rpc in RPCS.values()) == 14


def test_paths_and_metric_names() -> None:
    assert RPCS["ListIndexesMetadata"].path == f"/{SERVICE}/ListIndexesMetadata"
    assert RPCS["ListIndexesMetadata"].metric_name == "list_indexes_metadata"
    assert RPCS["MarkMetricsSplitsForDeletion"].metric_name == "mark_metrics_splits_for_deletion"
