"""What subcommands share that call nodes: whom, and how."""

from __future__ import annotations

from argparse import Namespace
from contextlib import suppress
from difflib import get_close_matches

from proxy import errors
from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.commands.node_config import load_as_caller
from proxy.commands.refusal import UsageError
from proxy.config import NodeConfig
from proxy.joining import gossip_client
from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.members import BackendState
from proxy.routing.targets import parse_target


def client_of(options: Namespace, *, allow_writes: bool) -> RoutingClient:
    """Return a client for the nodes that the command line names, else those of the config."""
    primary, replicas = options.primary, options.replica
    config = given_config(options)
    settings = ClientOptions(tls=client_tls(config))
    if config is not None and not primary and not replicas:
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


def given_config(options: Namespace) -> NodeConfig | None:
    """Return the configuration of the file that is named, None where none is."""
    return None if options.config is None else load_as_caller(options)


def client_tls(config: NodeConfig | None) -> ClientTls | None:
    """Return how to speak to nodes by the `grpc.tls` of a configuration; None in plain text."""
    tls = None if config is None else config.grpc.tls
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
