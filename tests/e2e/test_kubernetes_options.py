"""The Helm chart with what its users may set, run: TLS from a Secret on all ports, and workers."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.demo.postgres import PostgresPair
from tests.support.certificates import Authority
from tests.support.kubelet import ClusterRun, cluster_run
from tests.support.main_job import SPLITS, list_published, publish, split_count
from tests.support.manifests import helm, named, of_kind, pod_template
from tests.support.pods import secrets_for
from tests.support.waiting import until

GRPC, REST = 7281, 7280
NAME = "metastore.example.org"


def values(files: Path) -> dict[str, Any]:
    """Return values of the chart; the Secret is mounted where its files are on this machine."""
    tls = {"cert_path": f"{files}/tls.crt", "key_path": f"{files}/tls.key"}
    mutual = {"ca_path": f"{files}/ca.crt", "verify_client_cert": True, "expected_name": NAME}
    workers = [{"name": "METASTORE_PROXY_WORKERS", "value": "2"}]
    return {
        "metastore": {"enabled": True, "replicas": 1},
        "readReplica": {"replicas": 1, "extraEnv": workers},
        "router": {"replicas": 1},
        "config": {"grpc": {"tls": tls | mutual}, "rest": {"tls": tls}},
        "extraVolumes": [{"name": "tls", "secret": {"secretName": "metastore-tls"}}],
        "extraVolumeMounts": [{"name": "tls", "mountPath": str(files), "readOnly": True}],
        "imagePullSecrets": [{"name": "registry"}],
        "monitoring": {"podMonitor": True, "tlsConfig": {"serverName": NAME}},
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files of the Secret, as cert-manager names them."""
    authority = Authority(tmp_path)
    issued = authority.issue("tls", NAME)
    issued.cert.with_name("ca.crt").write_bytes(authority.ca.read_bytes())
    return tmp_path


async def test_tls_and_workers(pair: PostgresPair, files: Path) -> None:
    path = files / "values.yaml"
    path.write_text(json.dumps(values(files)), encoding="utf-8")
    manifests = helm("--values", str(path))
    for workload in of_kind(manifests, "Deployment", "Job"):
        assert pod_template(workload)["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    async with cluster_run(manifests, secrets_for(pair)) as run:
        await run.apply()
        (router,) = run.endpoints("metastore-proxy-router")
        credentials = grpc.ssl_channel_credentials(
            *((files / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
        )
        async with grpc.aio.secure_channel(
            f"{router}:{GRPC}", credentials, [("grpc.ssl_target_name_override", NAME)]
        ) as channel:
            uid, position = await publish(channel, "encrypted")
            written = await list_published(channel, uid, x_metastore_min_lsn=position)
            assert split_count(written) == SPLITS

            async def is_from_a_replica() -> bool:
                return (await list_published(channel, uid)).route == "replica"

            await until(is_from_a_replica)
        await _the_readme_s_command_works_in_every_pod(run)
        await _scraped_as_the_monitor_says(run, files)


async def _the_readme_s_command_works_in_every_pod(run: ClusterRun) -> None:
    for role in ("router", "read-replica", "metastore"):
        said = await run.execute(f"metastore-proxy-{role}", "metastore-proxy", "status", "--json")
        told = json.loads(said)
        known = {one["node_id"] for one in (*told["primaries"], *told["members"])}
        assert known == {pod.name for pod in run.pods}


async def _scraped_as_the_monitor_says(run: ClusterRun, files: Path) -> None:
    (endpoint,) = named(run.manifests, "PodMonitor", "metastore-proxy")["spec"][
        "podMetricsEndpoints"
    ]
    (replica,) = run.endpoints("metastore-proxy-read-replica")
    async with (
        aiohttp.ClientSession() as http,
        http.get(
            f"{endpoint['scheme']}://{replica}:{REST}{endpoint['path']}",
            ssl=ssl.create_default_context(cafile=str(files / "ca.crt")),
            server_hostname=endpoint["tlsConfig"]["serverName"],
        ) as response,
    ):
        families = list(text_string_to_metric_families(await response.text()))
    (workers,) = [one for one in families if one.name == "metastore_proxy_workers"]
    assert {one.labels["state"]: one.value for one in workers.samples}["serving"] == 2
