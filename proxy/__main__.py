"""The command line: run, migrate, check-config, call, explain, status, drain, demo."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from proxy import commands, draining, errors, explaining, logs, status, usage
from proxy.client.asking import NoAnswerError
from proxy.config import ConfigError, config_path
from proxy.config.sections import MOST_WORKERS
from proxy.tls import TlsError
from proxy.workers.dividing import parse_worker

_DESCRIPTION: Final = """\
A gRPC metastore for Quickwit in front of PostgreSQL: writes go to the primary, stale-tolerant
reads to streaming replicas.
"""

_EXAMPLES: Final = """\
examples:
  metastore-proxy demo                                   a guided tour (brings its own PostgreSQL)
  metastore-proxy run --config node.yaml                 the role is `enabled_services` of the file
  metastore-proxy run --config node.yaml --service metastore_read_replica
  QW_METASTORE_URI=postgresql://user:password@host/db metastore-proxy run --service metastore
  metastore-proxy check-config --config node.yaml        the resolved config, secrets redacted
  metastore-proxy migrate --check --config node.yaml     which migrations the database lacks
  metastore-proxy call ListIndexesMetadata '{"index_id_patterns": ["*"]}' \\
      --primary 127.0.0.1:7281 --replica 127.0.0.1:7381
  metastore-proxy explain ListSplits --max-lag 1s --router 127.0.0.1:7281
  metastore-proxy status --node 127.0.0.1:7281           who the primary is, and who else is there

  metastore-proxy drain --config node.yaml               before the node is stopped

exit status: 0 done, 1 failed, 2 wrong usage or configuration
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit status.

    Errors are one line on standard error: what is wrong, and what to do next.
    """
    logs.quiet_grpc_core(os.environ)
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = int(asyncio.run(options.command(options)))
        sys.stdout.flush()
    except (ConfigError, commands.UsageError, TlsError) as error:
        print(f"metastore-proxy: {usage.told(error)}", file=sys.stderr)  # noqa: T201 - its output
        return 2
    except (errors.MetastoreError, NoAnswerError) as error:
        print(f"metastore-proxy: {usage.told(error)}", file=sys.stderr)  # noqa: T201 - its output
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough, as with `| head`; what is still buffered must
        # not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = usage.Parser(
        prog="metastore-proxy",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"metastore-proxy {version('metastore-proxy')}"
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

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
    run.set_defaults(command=commands.run)

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
    migrate.set_defaults(command=commands.migrate)

    check = subcommands.add_parser(
        "check-config",
        help="print the resolved configuration, secrets redacted",
        description="Print the configuration that `run` would use, with defaults and environment "
        "resolved and secrets redacted; status 2 if it would be refused.",
    )
    _add_config(check)
    check.set_defaults(command=commands.check_config)

    _add_call(subcommands)
    _add_explain(subcommands)
    _add_status(subcommands)
    _add_drain(subcommands)
    _add_demo(subcommands)
    usage.teach(subcommands)
    return parser


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


def _add_call(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
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
    call.set_defaults(command=commands.call)


def _add_explain(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
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
    explain.set_defaults(command=explaining.explain)


_STATUS_DESCRIPTION: Final = """\
Ask a node of any role what it knows of its cluster: the primary with all its addresses, and of
every other member its role, whether it is ready, its lag and its version. All nodes tell the
same, as soon as gossip has reached them. Above that, what its status page shows as well: where
calls go as this node sees it, what is wrong and what to do; below it lags, calls per second by
route, the cap in use and readiness.
"""
_STATUS_EXAMPLES: Final = """\
examples:
  metastore-proxy status                                 the node at 127.0.0.1:7281
  metastore-proxy status --node metastore-0.internal:7281
  metastore-proxy status --config node.yaml              the node of this file, then those it names
  metastore-proxy status --watch                         again every 2 s, until Ctrl-C
  metastore-proxy status --json | jq -r '.primaries[0].grpc_address'
  metastore-proxy status --json | jq -r '.status.findings[].text'
  metastore-proxy status > /dev/null || echo "no primary"

exit status: 0 there is a primary, 1 there is none or no node answers, 2 wrong usage
"""


def _add_status(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    status_parser = subcommands.add_parser(
        "status",
        help="show who the primary is, and every other node of the cluster",
        description=_STATUS_DESCRIPTION,
        epilog=_STATUS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status_parser.add_argument(
        "--node", metavar="HOST:PORT", help="the gRPC address of a node; default: 127.0.0.1:7281"
    )
    status_parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    status_parser.add_argument(
        "--watch", action="store_true", help="repeat every 2 seconds until Ctrl-C"
    )
    _add_config(status_parser, with_service=False)
    status_parser.set_defaults(command=status.status)


_DRAIN_DESCRIPTION: Final = """\
Take a node of this host out of service without losing a call. It turns not ready for everybody
who looks (health, readyz, gossip), goes on serving, and finishes the calls in flight; this command
shows how far it is and returns when no call is left. The node then waits for SIGTERM, and serves
until that comes. There is no way back but a restart.

The node is found by a socket in its `data_dir`, so run this where the node runs: on its host, in
its container, as its user or root. Nothing of this can be reached from the network.
"""
_DRAIN_EXAMPLES: Final = """\
examples:
  metastore-proxy drain                                  the node of QW_CONFIG, QW_DATA_DIR
  metastore-proxy drain --config node.yaml && systemctl stop metastore-proxy
  metastore-proxy drain --data-dir /var/lib/metastore    also while the config file is broken
  metastore-proxy drain --timeout 10 || echo "callers are still there"
  kubectl exec metastore-0 -- metastore-proxy drain

  # Kubernetes; terminationGracePeriodSeconds is at least `proxy.drain_timeout` and 5 s more
  lifecycle: {preStop: {exec: {command: [metastore-proxy, drain]}}}

A drain takes `proxy.drain_timeout` at most. It can be asked for again, and SIGTERM goes on where it
is; a second SIGTERM ends it.

exit status: 0 drained, 1 not drained in time or no node there, 2 wrong usage
"""


def _add_drain(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    drain = subcommands.add_parser(
        "drain",
        help="take a node of this host out of service without losing a call",
        description=_DRAIN_DESCRIPTION,
        epilog=_DRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    drain.set_defaults(command=draining.drain)


def _add_demo(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    demo = subcommands.add_parser(
        "demo",
        help="a guided tour on an embedded PostgreSQL pair",
        description="Start a PostgreSQL primary and a streaming standby, a metastore node and two "
        "replica nodes; write and read through them, kill nodes and watch the reads go on. "
        "Leaves everything running until Ctrl-C, then removes it.",
    )
    demo.add_argument("--exit", action="store_true", help="end after the tour")
    demo.set_defaults(command=commands.demo)


if __name__ == "__main__":
    sys.exit(main())
