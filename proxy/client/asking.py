"""Asking a node something by the proxy's own service, on a connection of the question's own.

For a question now and then; what is asked again and again goes over a `Connection`. Whether a node
answers is found out anew each time, so that no back-off of an earlier failure is in the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from proxy.client.channels import Channels
from proxy.client.discovery import Resolve, resolve_with_system
from proxy.client.options import ClientOptions
from proxy.client.tls import ClientTls
from proxy.client.wire import read_failure
from proxy.errors import Code, MetastoreError
from proxy.http2.answer import CallError
from proxy.routing.targets import Target, join_address
from proxy.tls import TlsError
from proxy.unanswered import NoAnswerError

_SERVICE: Final = "metastore.proxy.v1.ProxyService"

T = TypeVar("T", bound=Message)


@asynccontextmanager
async def opened(tls: ClientTls | None) -> AsyncIterator[Channels]:
    """Have channels for some questions. `TlsError` when the files of `tls` cannot be used."""
    if tls is not None and not tls.ca_path:
        raise TlsError(f"`{tls.section}.ca_path` is not set: name the CA that the nodes' are of")
    channels = Channels(ClientOptions(tls=tls))
    try:
        await channels.open()
        yield channels
    finally:
        await channels.close()


async def ask_node(
    address: str,
    method: str,
    request: Message,
    answer: type[T],
    *,
    timeout: float = 10.0,
    channels: Channels | None = None,
    authority: str | None = None,
) -> T:
    """Ask the node at `address` by a method of `metastore.proxy.v1.ProxyService`.

    In plain text, or as `channels` have it, which must be open. `authority` is the name that the
    address came from: with TLS the node's certificate must be for it. `NoAnswerError` when there is
    no node, none that knows the method, or no answer within `timeout` seconds; else the node's own
    error.
    """
    until = asyncio.get_running_loop().time() + timeout
    channels = channels or Channels(ClientOptions())
    async with channels.make(address, authority) as channel:
        try:
            return await channel.unary(
                f"/{_SERVICE}/{method}",
                request.SerializeToString(),
                answer.FromString,
                timeout=timeout,
            )
        except CallError as error:
            trouble = await _trouble(channels, address, authority, error, until)
            raise _failed(address, method, error, trouble) from error
        except DecodeError as error:
            reason = "its answer does not parse"
            raise _no_answer(address, method, reason, is_stranger=True) from error


async def _trouble(
    channels: Channels,
    address: str,
    authority: str | None,
    error: CallError,
    until: float,
) -> str:
    """Return what TLS has to do with it, as far as there is time to find out."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and not read_failure(error).is_explicit:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await channels.diagnose(address, authority)
    return ""


def _failed(
    address: str, method: str, error: CallError, trouble: str
) -> NoAnswerError | MetastoreError:
    failure = read_failure(error)
    if failure.is_explicit:
        return failure.error
    if failure.code is Code.UNIMPLEMENTED:
        reason = "it is no node of this project's, or an older one"
        return _no_answer(address, method, reason, is_stranger=True)
    return _no_answer(address, method, trouble or error.details() or failure.code.name)


async def ask_target(
    target: Target,
    method: str,
    request: Message,
    answer: type[T],
    *,
    timeout: float,
    channels: Channels | None = None,
    authority: str | None = None,
    resolve: Resolve = resolve_with_system,
) -> Mapping[str, T | NoAnswerError | MetastoreError]:
    """Ask every node that a target names, all at once; return what came of it, by address.

    Takes `timeout` seconds at most. A name that has no address is told as what came of the target,
    and is the authority of those that it has; `authority` is that of a target that is no name.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    addresses = [target.address]
    if target.is_name:
        try:
            async with asyncio.timeout(timeout):
                hosts = await resolve(target.host, target.port)
        # A label that is too long for DNS raises UnicodeError.
        except (OSError, UnicodeError) as error:
            late = f"the name is not resolved within {timeout:.3g} s"
            reason = (
                late if isinstance(error, TimeoutError) else f"the name has no address: {error}"
            )
            return {str(target): _no_answer(str(target), method, reason)}
        addresses = sorted({join_address(host, target.port) for host in hosts})
        authority = target.address

    async def ask(address: str) -> T | NoAnswerError | MetastoreError:
        try:
            left = max(0.0, until - loop.time())
            return await ask_node(
                *(address, method, request, answer),
                timeout=left,
                channels=channels,
                authority=authority,
            )
        except (NoAnswerError, MetastoreError) as error:
            return error

    came = await asyncio.gather(*map(ask, addresses))
    return dict(zip(addresses, came, strict=True))


def _no_answer(whom: str, method: str, reason: str, *, is_stranger: bool = False) -> NoAnswerError:
    message = f"{whom} does not answer {method}: {reason}"
    return NoAnswerError(message, reason=reason, is_stranger=is_stranger)
