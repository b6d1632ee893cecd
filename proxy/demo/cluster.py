"""The demo's cluster: a PostgreSQL pair, one node on the primary, two on the standby."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final, Self

from proxy.demo.postgres import PostgresPair
from proxy.demo.processes import NodeProcess
from proxy.demo.watchdog import Watchdog
from proxy.roles import Role

DATABASE: Final = "quickwit"

_CONFIG: Final = """\
# One file for all nodes of the demo; the role and the ports come from the environment.
version: "0.8"
cluster_id: metastore-proxy-demo
metastore_uri: "{primary_uri}"
metastore_read_replica_uri: "{standby_uri}"
peer_seeds: ["{seed}"]
gossip_interval_ms: 200
proxy:
  discovery: static
  primary: [{primary}]
  replicas: [{replicas}]
  heartbeat_interval: 250ms
  probe_interval: 250ms
"""


class DemoCluster:
    """Starts everything in `open`, leaves neither process nor directory after `close`."""

    def __init__(self) -> None:
        self.pair = PostgresPair()
        self._watchdog: Watchdog | None = None
        self.directory = Path()
        self.primary: NodeProcess
        self.replicas: list[NodeProcess] = []

    async def start_databases(self) -> None:
        """Start the primary and the standby and create the empty database."""
        self.directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-demo-"))
        self._watchdog = Watchdog(self.directory)
        await self.pair.start()
        await self.pair.create_database(DATABASE)
        await self.pair.wait_caught_up()

    async def start_nodes(self) -> None:
        """Start the three nodes and wait until each is ready."""

        def node(name: str, role: Role) -> NodeProcess:
            return NodeProcess(
                name,
                role,
                self.directory,
                {},
                config=self.config_path,
                watchdog=self._watchdog,
            )

        self.primary = node("metastore-1", Role.METASTORE)
        self.replicas = [node(f"replica-{number}", Role.READ_REPLICA) for number in (1, 2)]
        self.config_path.write_text(
            _CONFIG.format(
                primary_uri=self.pair.primary_uri(DATABASE),
                standby_uri=self.pair.standby_uri(DATABASE),
                seed=self.primary.gossip_address,
                primary=self.primary.address,
                replicas=", ".join(replica.address for replica in self.replicas),
            ),
            encoding="utf-8",
        )
        for process in self.nodes:
            process.start()
        for process in self.nodes:
            await process.wait_ready()

    @property
    def config_path(self) -> Path:
        """The config file that the nodes share."""
        return self.directory / "node.yaml"

    @property
    def nodes(self) -> list[NodeProcess]:
        """All nodes, the primary's first."""
        return [self.primary, *self.replicas]

    async def close(self) -> None:
        """Drain the nodes, stop the databases, remove the directories. Idempotent."""
        try:
            if self.replicas:
                for process in reversed(self.nodes):
                    await process.terminate()
        finally:
            self.replicas = []
            await self.pair.stop()
            watchdog, self._watchdog = self._watchdog, None
            if watchdog is not None:
                watchdog.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
