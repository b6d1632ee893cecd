"""The subcommand `run`: a node until a signal ends it."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from proxy.commands.node_config import configure_logs, load
from proxy.commands.refusal import UsageError
from proxy.config import NodeConfig
from proxy.roles import Role
from proxy.signals import ignore_all, ignore_reload
from proxy.workers.starting import become_parent

if TYPE_CHECKING:
    from proxy.lifecycle import NodeLifecycle

# Seconds that a node waits at its end for its last spans to be taken.
_FLUSH_BOUND: Final = 3.0


async def run(options: Namespace) -> int:
    """Run a node until a signal ends it."""
    ignore_reload()
    config = load(options, options.service)
    if config.proxy.workers > 1 and config.worker is None:
        become_parent(options.arguments)
    configure_logs(config)
    node = _node(config)
    async with _exporting_spans(config):
        await node.run(lambda: load(options, options.service))
        ignore_all()
    return 0


def _node(config: NodeConfig) -> NodeLifecycle:
    """Return the node, with what its role needs loaded: a router has no database, a parent nothing.

    What is loaded stays. Collections while it is loaded would find nothing, and later ones need
    not look at it.
    """
    gc.disable()
    try:
        if config.role is Role.ROUTER:
            from proxy.router_node import RouterNode  # noqa: PLC0415 - see above

            return RouterNode(config)
        from proxy.node import Node  # noqa: PLC0415 - see above

        return Node(config)
    finally:
        gc.freeze()
        gc.enable()


@asynccontextmanager
async def _exporting_spans(config: NodeConfig) -> AsyncIterator[None]:
    """Record and export the spans of this process, if the configuration says so."""
    settings = config.tracing
    if not settings.enabled:
        yield
        return
    try:
        # An optional package, and nobody who does not trace pays for loading it.
        from proxy.otel import Export  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "QW_ENABLE_OPENTELEMETRY_OTLP_EXPORTER is set, and OpenTelemetry is not installed: "
            f"pip install 'metastore-proxy[otlp]' ({error})"
        ) from error
    resource = {
        "service.instance.id": config.node_id,
        "metastore.role": config.role.value,
        "metastore.cluster_id": config.cluster_id,
    }
    if config.worker is not None:
        resource["metastore.worker"] = str(config.worker.number)
    export = Export(settings.protocol, settings.queue, resource)
    try:
        yield
    finally:
        await export.close(_FLUSH_BOUND)
