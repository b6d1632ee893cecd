"""TLS files that may change while they are in use: what they held last, and when that is replaced.

Facts: Quickwit looks at the files every `cert_poll_interval` and on SIGHUP, and keeps what it has
when the new files cannot be used. Ours in addition: `ca_path` is reloaded with the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from proxy.tls.files import Material, TlsError, TlsFiles, load

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reload:
    """What came of a look at the files: `error` is empty unless they cannot be used."""

    changed: bool = False
    error: str = ""


@dataclass(frozen=True)
class Staged:
    """Files that were read and are good, to be taken into use by `TlsSource.adopt`."""

    files: TlsFiles
    material: Material


class TlsSource:
    """Holds what the files held when they were last good.

    `open` reads them, and `TlsError` when they cannot be used; later a bad file changes nothing but
    the log and the count. `on_change` is called after the material was replaced, and `on_reload`
    with whether a look that found other files could use them, both in the event loop.
    """

    def __init__(
        self,
        files: TlsFiles,
        *,
        poll_interval: float,
        on_reload: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.files = files
        self.on_change: Callable[[], None] = lambda: None
        self._poll_interval = poll_interval
        self._on_reload = on_reload
        self._material: Material | None = None
        self._polling: asyncio.Task[None] | None = None
        self._last_error = ""
        self._reloading = asyncio.Lock()

    @property
    def material(self) -> Material:
        """What the files held when they were last good. The source must be open."""
        if self._material is None:
            raise RuntimeError(f"the files of `{self.files.section}` are not loaded yet")
        return self._material

    @property
    def is_loaded(self) -> bool:
        """Whether there is `material`."""
        return self._material is not None

    async def open(self) -> None:
        """Read the files and begin to watch them. Idempotent."""
        if self._polling is not None:
            return
        if self._material is None:
            self._material = await asyncio.to_thread(load, self.files)
            self._tell("TLS certificate loaded")
        self._polling = asyncio.create_task(self._poll(), name=f"tls {self.files.section}")

    async def close(self) -> None:
        """Watch no more. Idempotent."""
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait({polling})

    async def reload(self) -> Reload:
        """Look at the files now. Never raises; what the files held stays unless they are good."""
        self._last_error = ""
        return await self._look()

    async def stage(self, files: TlsFiles) -> Staged:
        """Read `files`, which may be other ones, without taking them into use.

        `TlsError` when they cannot be used, which is counted.
        """
        async with self._reloading:
            known = self._material if files == self.files else None
            try:
                return Staged(files, await asyncio.to_thread(load, files, known=known))
            except TlsError:
                self._on_reload(False)
                raise

    def adopt(self, staged: Staged, poll_interval: float) -> bool:
        """Take staged files into use; tell whether they hold anything else than before."""
        self.files, self._poll_interval = staged.files, poll_interval
        if staged.material is self._material:
            return False
        self._material = staged.material
        self._taken()
        return True

    def _taken(self) -> None:
        self._last_error = ""
        self._tell("TLS files reloaded")
        self._on_reload(True)
        self.on_change()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval)
            await self._look()

    async def _look(self) -> Reload:
        # One at a time: the older of two looks must not win.
        async with self._reloading:
            files, known = self.files, self.material
            try:
                found = await asyncio.to_thread(load, files, known=known)
            except TlsError as error:
                self._failed(str(error))
                return Reload(error=str(error))
            self._last_error = ""
            # What was adopted during the look is newer than what was seen.
            if found is known or self._material is not known or self.files is not files:
                return Reload()
            self._material = found
        self._taken()
        return Reload(changed=True)

    def _failed(self, problem: str) -> None:
        self._on_reload(False)
        # What each poll finds again is counted, but told once.
        if problem != self._last_error:
            self._last_error = problem
            log.error(
                "TLS files not reloaded: what was loaded before stays in use",
                extra={"section": self.files.section, "error": problem},
            )

    def _tell(self, event: str) -> None:
        certificate = self.material.certificate
        facts: dict[str, object] = {
            "section": self.files.section,
            "mutual": self.files.is_mutual,
        }
        if certificate is None:
            log.info(event, extra=facts)
            return
        facts |= {"names": certificate.names_text, "valid_until": certificate.expiry}
        if certificate.not_after < datetime.now(UTC):
            log.error(f"{event}, but the certificate has expired: peers refuse it", extra=facts)
        else:
            log.info(event, extra=facts)
