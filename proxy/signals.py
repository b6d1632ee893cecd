"""The signals of one process that serves: what each asks for, and nothing of what is done about it.

    SIGTERM, SIGINT   drain and end; once more: end now
    SIGHUP            read the configuration again

The handlers are those of the event loop, so that whoever is told may touch everything that runs in
it.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

_STOP: Final = (signal.SIGTERM, signal.SIGINT)


def ignore_reload() -> None:
    """Let SIGHUP do nothing until `Signals.install`, where it would end the process.

    To be called before the configuration is read for the first time: then nothing is lost by it.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def ignore_all() -> None:
    """Let no signal but SIGKILL cut the end of a process short, which has closed all already."""
    for number in (*_STOP, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """What was asked for, as events that others wait for.

    `stopping` and `hurry` are never cleared. `reload` is for whoever reloads to clear; signals in
    quick succession set it once.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self.reload = asyncio.Event()

    def install(self) -> None:
        """Take the signals of this process from now on. To be called in the main thread."""
        loop = asyncio.get_running_loop()
        for number in _STOP:
            # Ignored on purpose by whoever started it, as a shell does in the background.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.stop)
        # Also where it was ignored, as by `nohup`: it ends nothing any more.
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def remove(self) -> None:
        """Let the signals do again what they do by default. Idempotent."""
        loop = asyncio.get_running_loop()
        for number in (*_STOP, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Ask for the end; at the second time for a quick one."""
        if self.stopping.is_set():
            self.hurry.set()
        self.stopping.set()
