"""The command line: its subcommands and their options."""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from proxy.commands import texts
from proxy.commands.usage import HelpFormatter, Parser
from proxy.config import config_path
from proxy.config.sections import MOST_WORKERS
from proxy.version import VERSION
from proxy.workers.dividing import parse_worker

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Command: TypeAlias = Callable[[argparse.Namespace], Awaitable[int]]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `command` of what it parses runs it."""
    whole: argparse.ArgumentParser = Parser(
        prog="metastore-proxy",
        description=texts.DESCRIPTION,
        epilog=texts.ALL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"metastore-proxy {VERSION}")
    subcommands = whole.add_subparsers(required=True, metavar="COMMAND")

    run = subcommands.add_parser(
        "run",
        help="run a node until SIGTERM",
        description="Run a node until SIGTERM. It becomes ready (GET /health/readyz on the REST "
        "port) when its database is reachable and its schema complete.",
    )
    _add_config(run)
    run.add_argument(
        "--log-format",
        choices=["console", "json"],
        help="how log lines are written to standard error; overrides `proxy.log_format`",
    )
    run.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="processes that serve the gRPC port; overrides `proxy.workers`, which is 1 by default",
    )
    # What the parent of several workers starts each of them with.
    run.add_argument("--internal-worker", type=parse_worker, help=argparse.SUPPRESS)

    migrate = subcommands.add_parser(
        "migrate",
        help="create or complete the schema at metastore_uri",
        description="Create or complete the schema in the database at `metastore_uri`, as a "
        "`metastore` node does at start. Safe to repeat and to run beside nodes.",
    )
    _add_config(migrate, with_service=False)
    migrate.add_argument(
        "--check",
        action="store_true",
        help="only report; status 1 if a required migration is missing or wrong",
    )

    check = subcommands.add_parser(
        "check-config",
        help="print the resolved configuration, secrets redacted",
        description="Print the configuration that `run` would use, with defaults and environment "
        "resolved and secrets redacted; status 2 if it would be refused.",
    )
    _add_config(check)

    _add_call(subcommands)
    _add_explain(subcommands)
    _add_status(subcommands)
    _add_drain(subcommands)
    _add_demo(subcommands)
    for name, parser in subcommands.choices.items():
        parser.epilog = texts.EXAMPLES[name]
        parser.formatter_class = HelpFormatter
        parser.set_defaults(subcommand=name, command=_command(name))
    return whole


def _command(name: str) -> Command:
    """Return what runs a subcommand, by loading its module."""

    async def run(options: argparse.Namespace) -> int:
        module = import_module(f"proxy.commands.{name.replace('-', '_')}")
        command: Command = module.run
        return await command(options)

    return run


def _workers(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 1 to {MOST_WORKERS}, it is {text[:64]!r}"
        )
    return count


def _add_config(parser: argparse.ArgumentParser, *, with_service: bool = True) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=config_path(None, os.environ),
        metavar="FILE",
        help="node config (YAML, JSON or TOML by extension); default: the file QW_CONFIG names",
    )
    if with_service:
        parser.add_argument(
            "--service",
            action="append",
            metavar="ROLE",
            help="metastore, metastore_read_replica or metastore_router; overrides "
            "`enabled_services`",
        )


def _add_call(subcommands: Subcommands) -> None:
    call = subcommands.add_parser(
        "call",
        help="make one call through the routing client and show who served it",
        description="Make one call through the routing client. The request is the RPC's message "
        "as JSON (protobuf's JSON form); the answer is printed as JSON, and who served it, by "
        "which route and how old its data may be on standard error.",
    )
    call.add_argument("rpc", metavar="RPC", help="for example ListIndexesMetadata")
    call.add_argument("request", nargs="?", default="{}", metavar="JSON", help="default: {}")
    call.add_argument("--primary", action="append", default=[], metavar="HOST:PORT")
    call.add_argument("--replica", action="append", default=[], metavar="HOST:PORT")
    call.add_argument("--timeout", type=float, metavar="SECONDS")
    call.add_argument("--allow-writes", action="store_true", help="permit RPCs that write")
    _add_config(call, with_service=False)


def _add_explain(subcommands: Subcommands) -> None:
    explain = subcommands.add_parser(
        "explain",
        help="show where a call would go now, and why",
        description="Show for a call which backends are considered, and why each would be taken "
        "or not. Sends no call. With --router a running router is asked, which knows the load and "
        "the failures that it has seen; otherwise this process connects to the nodes itself.",
    )
    explain.add_argument("rpc", metavar="RPC", help="for example ListSplits")
    explain.add_argument("--router", metavar="HOST:PORT", help="a running metastore_router")
    explain.add_argument("--primary", action="append", default=[], metavar="HOST:PORT")
    explain.add_argument("--replica", action="append", default=[], metavar="HOST:PORT")
    explain.add_argument("--max-lag", metavar="DURATION", help="such as 500ms")
    explain.add_argument("--min-lsn", default="", metavar="X/Y", help="a position in the WAL")
    explain.add_argument("--consistency", default="", choices=["eventual", "primary"])
    explain.add_argument(
        "--allow-replica", action="store_true", help="let a replica serve a read outside the six"
    )
    explain.add_argument("--json", action="store_true", help="print the answer as JSON")
    _add_config(explain, with_service=False)


def _add_status(subcommands: Subcommands) -> None:
    status_parser = subcommands.add_parser(
        "status",
        help="show who the primary is, and every other node of the cluster",
        description=texts.STATUS,
    )
    status_parser.add_argument(
        "--node",
        metavar="HOST:PORT",
        help="the gRPC address of a node; default: that of the configuration",
    )
    status_parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    status_parser.add_argument(
        "--watch", action="store_true", help="repeat every 2 seconds until Ctrl-C"
    )
    _add_config(status_parser, with_service=False)


def _add_drain(subcommands: Subcommands) -> None:
    drain = subcommands.add_parser(
        "drain",
        help="take a node of this host out of service without losing a call",
        description=texts.DRAIN,
    )
    drain.add_argument(
        "--data-dir", metavar="DIR", help="the node's `data_dir`; default: that of --config"
    )
    drain.add_argument(
        "--node-id", metavar="ID", help="which node, where several share the directory"
    )
    drain.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="give up after so long; the node goes on draining",
    )
    _add_config(drain, with_service=False)


def _add_demo(subcommands: Subcommands) -> None:
    demo = subcommands.add_parser(
        "demo",
        help="a guided tour on an embedded PostgreSQL pair",
        description="Start a PostgreSQL primary and a streaming standby, a metastore node and two "
        "replica nodes; write and read through them, kill nodes and watch the reads go on. "
        "Leaves everything running until Ctrl-C, then removes it.",
    )
    demo.add_argument("--exit", action="store_true", help="end after the tour")
