"""A router in the test's own process whose configuration file a test rewrites."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.config import NodeConfig, load_config
from proxy.demo.postgres_host import free_port
from proxy.router_node import RouterNode
from proxy.server.reload import Reloader
from tests.support.waiting import until


class Reloading:
    """The file, and the router that reads it again. `environ` may be changed as well."""

    def __init__(
        self, path: Path, sections: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        self.path = path
        self.environ = {
            "QW_NODE_ID": "router-1",
            "QW_REST_LISTEN_PORT": str(free_port()),
            "QW_GRPC_LISTEN_PORT": str(free_port()),
        }
        self.document: dict[str, Any] = {
            "version": "0.8",
            "proxy": {"shutdown_delay": "0s", **settings},
            **(sections or {}),
        }
        self.write()
        self.node = RouterNode(self.load())
        self.reloader = Reloader(self.node, self.load)

    def load(self) -> NodeConfig:
        """Read the file as the command line does."""
        return load_config(self.path, environ=self.environ, services=["metastore_router"])

    def write(self, sections: Mapping[str, Any] | None = None, /, **settings: Any) -> None:
        """Write the file with other keys of `proxy`, and other sections."""
        document = {**self.document, **(sections or {})}
        document["proxy"] = {**self.document["proxy"], **settings}
        self.path.write_text(json.dumps(document), encoding="utf-8")

    async def changed(self, **settings: Any) -> bool:
        """Write and reload; tell whether it succeeded."""
        self.write(**settings)
        return await self.reloader.reload()

    def sample(self, name: str, **labels: str) -> float | None:
        """Return a sample of the router's metrics."""
        return self.node.metrics.registry.get_sample_value(f"metastore_proxy_{name}", labels)

    @property
    def counts(self) -> tuple[float | None, float | None, float | None]:
        """Reloads that succeeded and that failed, and whether the last one succeeded."""
        return (
            self.sample("config_reloads_total", result="success"),
            self.sample("config_reloads_total", result="failure"),
            self.sample("config_last_reload_successful"),
        )

    @property
    def addresses(self) -> set[str]:
        """The addresses of all backends."""
        return {backend.address for backend in self.node.client.backends().backends}


@asynccontextmanager
async def reloading(
    path: Path, *, sections: Mapping[str, Any] | None = None, wait: bool = True, **settings: Any
) -> AsyncIterator[Reloading]:
    """Run a router from a file; wait until it is ready unless told not to."""
    made = Reloading(path, sections, **settings)
    try:
        await made.node.open()
        if wait:
            await until(lambda: made.node.readiness.is_ready, lambda: made.node.readiness.failures)
        yield made
    finally:
        await made.node.close()
