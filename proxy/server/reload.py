"""Taking up a changed configuration while the node serves: all of it that can be, or nothing.

The file is read anew, with its variables, and compared to what is in force. What can fail happens
before anything changes: reading, checking, loading TLS files, resolving names. The rest is one step
of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy import logs
from proxy.config import ConfigError, NodeConfig
from proxy.config.changes import Changes, changes
from proxy.metrics import NodeMetrics
from proxy.tls import TlsError

log = logging.getLogger(__name__)

Load = Callable[[], NodeConfig]
"""Reads the configuration; blocks. `ConfigError` when it cannot be used."""


class Reloadable(Protocol):
    """A node, as far as it takes up another configuration."""

    config: NodeConfig

    @property
    def metrics(self) -> NodeMetrics: ...

    def prepare(self, config: NodeConfig, /) -> Awaitable[Callable[[], None]]:
        """Do all that may fail; return what takes the configuration into use and cannot fail."""


class Reloader:
    """Reloads one node's configuration, once at a time."""

    def __init__(self, node: Reloadable, load: Load) -> None:
        self._node = node
        self._load = load

    async def run(self, asked: asyncio.Event) -> None:
        """Reload each time that `asked` is set, until cancelled.

        Asked during a reload it reloads once more, so that the last file wins.
        """
        while True:
            await asked.wait()
            asked.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Reload now; tell whether what is configured could be used. Never raises."""
        try:
            new = await asyncio.to_thread(self._load)
            found = changes(self._node.config, new)
            commit = await self._node.prepare(found.config)
        except (ConfigError, TlsError) as error:
            self._refuse(str(error))
            return False
        # Neither here nor below must a defect end a node that serves, nor its later reloads.
        except Exception as error:
            self._refuse(f"unexpected error ({type(error).__name__})", error)
            return False
        before = self._node.config
        try:
            commit()
            self._tell(before, found)
        except Exception as error:
            self._node.metrics.config_reloaded(succeeded=False)
            log.exception(
                "configuration reloaded in part, for a defect: restart the node to have all of it",
                extra={"error": type(error).__name__},
            )
            return False
        self._node.metrics.config_reloaded(succeeded=True)
        return True

    def _refuse(self, problem: str, error: Exception | None = None) -> None:
        self._node.metrics.config_reloaded(succeeded=False)
        log.error(
            "configuration not reloaded: nothing is changed, what was in force stays",
            extra={"error": problem},
            exc_info=error,
        )

    def _tell(self, before: NodeConfig, found: Changes) -> None:
        old, new = before.proxy, found.config.proxy
        # First of all: nothing that is logged from here on may show a new secret.
        if found.config.secrets != before.secrets or new.log_format != old.log_format:
            logs.configure(
                log_format=new.log_format, level=old.log_level, secrets=found.config.secrets
            )
        is_heard = log.isEnabledFor(logging.INFO)
        if is_heard:
            _say(found)
        if new.log_level != old.log_level:
            logs.set_levels(new.log_level)
        if not is_heard:
            _say(found)
        for warning in found.config.warnings:
            if warning not in before.warnings:
                log.warning(warning)


def _say(found: Changes) -> None:
    if found.applied:
        log.info("configuration reloaded", extra={"changed": list(found.applied)})
    elif not found.pending:
        log.info("configuration reloaded: no key has changed")
    if found.pending:
        log.warning(
            "configuration reloaded, but some changed keys need a restart and stay as they were",
            extra={"keys": list(found.pending)},
        )
