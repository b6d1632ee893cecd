"""What each subcommand of the command line does; returns the process's exit status."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy import errors, logs
from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.config import NodeConfig, Worker, load_config, render
from proxy.joining import gossip_client
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2
from proxy.roles import Role
from proxy.router_node import RouterNode
from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.members import BackendState
from proxy.routing.targets import parse_target
from proxy.signals import ignore_all, ignore_reload
from proxy.store import migrations
from proxy.store.migration_manifest import Track
from proxy.store.pool import Database
from proxy.store.servers import Wanted
from proxy.tls import load as load_tls_files
from proxy.workers.dividing import for_worker
from proxy.workers.starting import become_parent

# Seconds that a node waits at its end for its last spans to be taken.
_FLUSH_BOUND: Final = 3.0

# Seconds until some node serves.
_READY: Final = 5.0


class UsageError(Exception):
    """The command was given something that it cannot use; says what to do."""


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


def _configure_logs(config: NodeConfig) -> None:
    logs.name_worker(None if config.worker is None else config.worker.number)
    logs.configure(
        log_format=config.proxy.log_format, level=config.proxy.log_level, secrets=config.secrets
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _aside(text: str) -> None:
    sys.stderr.write(f"{text}\n")


async def run(options: Namespace) -> int:
    """Run a node until a signal ends it."""
    ignore_reload()
    config = load(options, options.service)
    if config.proxy.workers > 1 and config.worker is None:
        become_parent(options.arguments)
    _configure_logs(config)
    node = RouterNode(config) if config.role is Role.ROUTER else Node(config)
    async with _exporting_spans(config):
        await node.run(lambda: load(options, options.service))
        ignore_all()
    return 0


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


async def check_config(options: Namespace) -> int:
    """Print the resolved config."""
    config = load(options, options.service)
    for warning in config.warnings:
        _aside(f"warning: {warning}")
    _say(render(config))
    for section, tls in (("grpc.tls", config.grpc.tls), ("rest.tls", config.rest_tls)):
        if tls is not None:
            load_tls_files(tls.files(section))
    return 0


async def migrate(options: Namespace) -> int:
    """Apply the migrations, or report on them."""
    config = load(options, ["metastore"])
    _configure_logs(config)
    if options.check:
        async with _opened(config, read_only=True) as database:
            return await _report_migrations(database)
    async with _opened(config, read_only=False) as database:
        report = await migrations.apply(database, lock=not config.postgres.skip_migration_locking)
        _say(f"required migrations: {len(report.applied)} applied in {report.seconds:.2f} s")
        _say("deferred migrations: running")
        deferred = await migrations.apply_deferred(database)
    _say(f"deferred migrations: {deferred.outcome.value} {deferred.error}".rstrip())
    return 1 if deferred.outcome is migrations.DeferredOutcome.FAILED else 0


@asynccontextmanager
async def _opened(config: NodeConfig, *, read_only: bool) -> AsyncIterator[Database]:
    # Of several servers, migrations run on the one that takes writes.
    wanted = Wanted.ANY if read_only else Wanted.PRIMARY
    database = Database(config.database_uri, config.pool, read_only=read_only, wanted=wanted)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def _report_migrations(database: Database) -> int:
    async with database.acquire() as session:
        states = await migrations.status(session)
    for state in states:
        track = state.track.value if state.track is not None else "-"
        _say(f"{state.version:>4}  {state.state.value:<8}  {track:<8}  {state.description}")
    wrong = [
        item
        for item in states
        if item.track is Track.REQUIRED and item.state is not migrations.State.APPLIED
    ]
    if wrong:
        _aside(
            f"{len(wrong)} required migrations are missing or wrong: run `metastore-proxy migrate`"
        )
    return 1 if wrong else 0


async def call(options: Namespace) -> int:
    """Make one call through the routing client."""
    rpc = find_rpc(options.rpc)
    request = _parse_request(rpc, options.request)
    if not rpc.is_read and not options.allow_writes:
        raise UsageError(f"{rpc.name} is a write: repeat the command with --allow-writes")
    async with client_of(options, allow_writes=options.allow_writes) as client:
        bound = _READY if options.timeout is None else min(_READY, options.timeout)
        await client.wait_ready(timeout=bound)
        await settle(client)
        if rpc.is_streaming:
            stream = client.stream(rpc.name, request, timeout=options.timeout)
            async for message in stream:
                _print_message(message)
            facts: Any = stream
        else:
            facts = await client.call(rpc.name, request, timeout=options.timeout)
            _print_message(facts.response)
    lag = "unknown" if facts.lag is None else f"{facts.lag:.3f} s"
    _aside(f"served by {facts.served_by} ({facts.role}), route {facts.route}, lag {lag}")
    return 0


def client_of(options: Namespace, *, allow_writes: bool) -> RoutingClient:
    """Return a client for the nodes that the command line names, else those of the config."""
    primary, replicas = options.primary, options.replica
    settings = ClientOptions(tls=client_tls(options))
    if options.config is not None and not primary and not replicas:
        config = load_as_caller(options)
        if config.proxy.discovery == "gossip":
            return gossip_client(config, allow_writes=allow_writes)
        primary, replicas = config.proxy.primary, config.proxy.replicas
        settings = ClientOptions.from_config(config)
    if not primary and not replicas:
        raise UsageError(
            "no node to call: give --primary HOST:PORT and --replica HOST:PORT, or a --config "
            "whose `proxy` section has `primary` and `replicas`, or `discovery: gossip`"
        )
    try:
        return RoutingClient(primary, replicas, allow_writes=allow_writes, options=settings)
    except ValueError as error:
        raise UsageError(str(error)) from error


def client_tls(options: Namespace) -> ClientTls | None:
    """Return how to speak to nodes by the `grpc.tls` of the configuration; None in plain text."""
    tls = None if options.config is None else load_as_caller(options).grpc.tls
    if tls is None:
        return None
    if not tls.ca_path:
        raise UsageError("`grpc.tls.ca_path` is not set: name the CA that the nodes' are signed by")
    return ClientTls.from_config(tls)


async def settle(client: RoutingClient) -> None:
    """Wait a little for the nodes that are still connecting."""
    with suppress(errors.Unavailable):
        await client.wait_until(
            lambda now: all(one.state is not BackendState.CONNECTING for one in now.backends), 1.0
        )


def address_of(option: str, text: str) -> str:
    """Return the address that an option gives. `UsageError` when it is none."""
    try:
        return parse_target(text).address
    except ValueError as error:
        raise UsageError(f"`{option}`: {error}") from error


def find_rpc(name: str) -> Rpc:
    """Return an RPC by its name. `UsageError` that lists the names."""
    if name not in RPCS:
        near = get_close_matches(name, RPCS, 1)
        guess = f"did you mean {near[0]}; " if near else ""
        raise UsageError(f"{name!r} is not an RPC: {guess}the RPCs are {', '.join(sorted(RPCS))}")
    return RPCS[name]


def _parse_request(rpc: Rpc, text: str) -> Message:
    methods = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name
    request = GetMessageClass(methods[rpc.name].input_type)()
    try:
        return json_format.Parse(text, request)
    except json_format.ParseError as error:
        raise errors.InvalidArgument(
            f"the request is not a {request.DESCRIPTOR.name} as JSON: {error}"
        ) from error


def _print_message(message: Message) -> None:
    _say(json_format.MessageToJson(message, preserving_proto_field_name=True))


async def demo(options: Namespace) -> int:
    """Run the guided tour."""
    # The tour starts PostgreSQL binaries of an optional package: not needed to run a node.
    from proxy.demo.tour import run_tour  # noqa: PLC0415

    return await run_tour(leave_running=not options.exit)
