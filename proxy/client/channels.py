"""Channels to backends, in plain text or with TLS, by the files as they are at the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc

from proxy.client.options import ClientOptions
from proxy.client.probing import examine, speaks_tls
from proxy.http2.channel import Channel
from proxy.http2.dialled import Security
from proxy.tls.source import Reload, Staged, TlsSource

_READY: Final = grpc.ChannelConnectivity.READY
_BROKEN: Final = (
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)


class Channels:
    """Makes the channels of one client.

    With TLS, `open` reads the files (`TlsError` when they cannot be used) and begins to watch them;
    `generation` grows when they changed, and `on_change` is called: what was made before presents
    and trusts what the files held then.
    """

    def __init__(self, options: ClientOptions) -> None:
        self.generation = 0
        self.on_change: Callable[[], None] = lambda: None
        self._options = options
        self._tls = options.tls
        self._source: TlsSource | None = None
        if options.tls is not None:
            self._source = TlsSource(options.tls.files, poll_interval=options.tls.poll_interval)
            self._source.on_change = self._changed

    @property
    def is_tls(self) -> bool:
        """Whether the channels speak TLS."""
        return self._source is not None

    @property
    def is_open(self) -> bool:
        """Whether channels can be made: with TLS, the files have been read."""
        return self._source is None or self._source.is_loaded

    async def open(self) -> None:
        """Read the files and begin to watch them. Idempotent; does nothing without TLS."""
        if self._source is not None:
            await self._source.open()

    async def close(self) -> None:
        """Watch no more. Idempotent."""
        if self._source is not None:
            await self._source.close()

    async def reload(self) -> Reload:
        """Look at the files now; bad ones change nothing."""
        return Reload() if self._source is None else await self._source.reload()

    async def stage(self, options: ClientOptions) -> Staged | None:
        """Read the files of other options, to be handed to `reconfigure`; `TlsError` if bad."""
        if self._source is None or options.tls is None:
            return None
        return await self._source.stage(options.tls.files)

    def reconfigure(self, options: ClientOptions, staged: Staged | None) -> None:
        """Make channels by other options from now on; those there are follow if TLS changed."""
        is_other = options.tls != self._tls
        self._options, self._tls = options, options.tls
        if self._source is None or staged is None or options.tls is None:
            return
        # Calls `_changed` itself when the files hold something else.
        if not self._source.adopt(staged, options.tls.poll_interval) and is_other:
            self._changed()

    def _changed(self) -> None:
        self.generation += 1
        self.on_change()

    def make(self, address: str, authority: str | None) -> Channel:
        """Return a channel to `address`; `authority` is the name that the address came from.

        With TLS the name that the certificate must be for is what calls are for, too.
        """
        limits = self._options.channel_limits()
        tls, source = self._tls, self._source
        if tls is None or source is None:
            return Channel(address, limits=limits, authority=authority)
        context = source.material.client
        if context is None:
            raise RuntimeError(f"`{tls.section}` trusts nobody")
        security = Security(context, tls.name_of(address, authority))
        return Channel(
            address, limits=limits, authority=tls.expected_name or authority, security=security
        )

    async def diagnose(self, address: str, authority: str | None) -> str:
        """Return why a backend cannot be reached, as far as TLS is to blame; "" when it is not.

        Connects once on its own, and asks more closely than a channel does. Never raises.
        """
        if self._tls is None or self._source is None:
            return await speaks_tls(address)
        return await examine(address, authority, self._tls, self._source.material)


async def until_ready(channel: Channel, timeout: float) -> bool:
    """Wait up to `timeout` seconds for a channel to be READY; tell whether it is.

    False at once when an attempt to connect has failed.
    """
    try:
        async with asyncio.timeout(timeout):
            while (state := channel.get_state(try_to_connect=True)) is not _READY:
                if state in _BROKEN:
                    return False
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return True
