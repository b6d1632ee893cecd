"""The parent's process: `metastore-proxy run --workers N` becomes this one."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from proxy import errors, logs
from proxy.config import ConfigError, NodeConfig, config_path, load_config
from proxy.workers.dividing import drain_bound
from proxy.workers.parent import Parent
from proxy.workers.ports import reserve
from proxy.workers.starting import interpreter

log = logging.getLogger("proxy.workers")


def main(arguments: Sequence[str]) -> int:
    """Run the workers; `arguments` are those of `metastore-proxy`, with `run` among them."""
    parser = argparse.ArgumentParser(prog="metastore-proxy run")
    parser.add_argument("--config", type=Path, default=config_path(None, os.environ))
    parser.add_argument("--service", action="append")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--log-format")
    options, _ = parser.parse_known_args(arguments)
    try:
        config = load_config(options.config, environ=os.environ, services=options.service)
        count = options.workers or config.proxy.workers
        logs.configure(
            log_format=options.log_format or config.proxy.log_format,
            level=config.proxy.log_level,
            secrets=config.secrets,
        )
        return asyncio.run(_run(config, count, arguments))
    except ConfigError as error:
        print(f"metastore-proxy: {error}", file=sys.stderr)  # noqa: T201 - the CLI's own output
        return 2
    except errors.MetastoreError as error:
        print(f"metastore-proxy: {error}", file=sys.stderr)  # noqa: T201 - the CLI's own output
        return 1


async def _run(config: NodeConfig, count: int, arguments: Sequence[str]) -> int:
    held = reserve(config.listen_address, config.grpc_listen_port)
    try:
        config = replace(config, grpc_listen_port=held[0].getsockname()[1])
        parent = Parent(
            count,
            [*interpreter(), "-m", "proxy", *arguments],
            _environment(config),
            run=token_hex(4),
            drain_bound=drain_bound(config),
        )
        _follow_signals(parent)
        log.info("starting workers", extra={"node_id": config.node_id, "workers": count})
        status = await parent.run()
        log.info("all workers have ended", extra={"status": status})
        return status
    finally:
        for one in held:
            one.close()


def _environment(config: NodeConfig) -> dict[str, str]:
    """Return the environment of workers: what was made up here must be the same in all."""
    return {
        **os.environ,
        "QW_NODE_ID": config.node_id,
        "QW_GRPC_LISTEN_PORT": str(config.grpc_listen_port),
    }


def _follow_signals(parent: Parent) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Ignored on purpose by whoever started it, as a shell does in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, parent.stop)
    # Also where it was ignored, as by `nohup`: what it means is the workers' to know.
    loop.add_signal_handler(signal.SIGHUP, parent.hang_up)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
