"""The configuration that the command line and the environment name."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import replace

from proxy import logs
from proxy.config import NodeConfig, Worker, load_config
from proxy.workers.dividing import for_worker


def load(options: Namespace, services: list[str] | None = None) -> NodeConfig:
    """Return the node configuration that the command line and the environment name."""
    config = load_config(options.config, environ=os.environ, services=services)
    given = {
        key: value
        for key in ("log_format", "workers")
        if (value := getattr(options, key, None)) is not None
    }
    config = replace(config, proxy=replace(config.proxy, **given))
    worker: Worker | None = getattr(options, "internal_worker", None)
    return config if worker is None else for_worker(config, worker)


def load_as_caller(options: Namespace) -> NodeConfig:
    """Return the configuration of a node, or of none, for who calls nodes; its role is no matter.

    Where roles are given with `--service` a node's own file does not tell its role.
    """
    return load_config(options.config, environ=os.environ, is_node=False)


def configure_logs(config: NodeConfig) -> None:
    """Log as the configuration says."""
    logs.name_worker(None if config.worker is None else config.worker.number)
    logs.configure(
        log_format=config.proxy.log_format, level=config.proxy.log_level, secrets=config.secrets
    )
