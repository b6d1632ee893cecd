"""Containers of a deployment as processes of this machine, from what its manifests say of them.

A container is what a compose file or a Kubernetes manifest holds: a command, an environment, files
and probes. `Deployment` gives each a loopback address of its own, so that all keep their ports,
and starts the programs of the image from these sources. Translated are only names that mean
something in the deployment alone: host names, paths in the container, the address to listen on.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from proxy.demo.watchdog import Watchdog

ROOT = Path(__file__).resolve().parents[2]
# The programs in the image, as these sources have them.
PROGRAMS = {
    "metastore-proxy": (sys.executable, "-m", "proxy"),
    "metastore-proxy-health": (sys.executable, "-m", "proxy.healthcheck"),
}
# Where a value is a host name, or a list of them, and nothing else.
HOST_VARIABLES = frozenset({"QW_PEER_SEEDS", "PRIMARY_HOST", "PGHOST"})
HOST_KEYS = frozenset({"peer_seeds"})
START_BOUND = 60.0
# A probe may be a program whose start takes what the containers need for theirs.
POLL = 0.2


class DeployedError(Exception):
    """A container did not do what it was told; holds the end of its log."""


@dataclass(frozen=True)
class Probe:
    """How to ask a container how it is: a command run in it, else a GET of one of its ports."""

    command: tuple[str, ...] = ()
    port: int = 0
    path: str = ""


@dataclass(frozen=True)
class Container:
    """What a manifest says of one container; `name` is its host name as well.

    `command` is what runs in it, entry point of the image included, and `environment` has the
    image's variables. `mounts` are paths in the container and where their files are here.
    `launcher` stands in front of the command.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    probe: Probe | None = None
    launcher: tuple[str, ...] = ()


class Names:
    """What the host names of a deployment stand for: one loopback address each, or several."""

    def __init__(self, hosts: Mapping[str, Sequence[str]]) -> None:
        self._hosts = dict(hosts)
        # Longer names first: `metastore.default.svc` before `metastore`.
        names = "|".join(re.escape(name) for name in sorted(hosts, key=len, reverse=True))
        # A word is a host name after `@` or `//`, or before a port; `metastore` alone is a role.
        self._written = re.compile(
            rf"(?:(?<=@)|(?<=//)|(?<![\w.@/-])(?=[\w.-]+:\d))({names})"
            # A longer name, or the user before a host.
            r"(?![\w.-]|[^/\s,]*@)"
        )

    def addresses(self, name: str) -> Sequence[str]:
        """Return what a name stands for; itself when the deployment has no such name."""
        return self._hosts.get(name, (name,))

    def in_text(self, text: str) -> str:
        """Return a text with addresses for the names in its URIs and its `host:port` words."""
        if not self._hosts:
            return text
        return self._written.sub(lambda found: self.addresses(found[1])[0], text)

    def in_list(self, text: str) -> str:
        """Return a comma list of hosts, with or without ports, as addresses: of a name all."""
        return ",".join(
            address + colon + port
            for item in text.split(",")
            for host, colon, port in [item.strip().partition(":")]
            for address in self.addresses(host)
        )

    def in_document(self, document: Any, key: str = "") -> Any:
        """Return a configuration with addresses; an item of a list becomes one for each of them."""
        if isinstance(document, dict):
            return {name: self.in_document(value, name) for name, value in document.items()}
        if isinstance(document, list):
            return [one for item in document for one in self._items(item, key)]
        return self.in_text(document) if isinstance(document, str) else document

    def _items(self, item: Any, key: str) -> list[Any]:
        if not isinstance(item, str):
            return [self.in_document(item)]
        if key in HOST_KEYS:
            return self.in_list(item).split(",")
        found = self._written.search(item)
        if found is None:
            return [item]
        before, after = item[: found.start()], item[found.end() :]
        return [before + address + after for address in self.addresses(found[1])]


class Running:
    """A container's process and its log."""

    def __init__(
        self,
        container: Container,
        address: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
        watchdog: Watchdog,
    ) -> None:
        self.container = container
        self.address = address
        self.command = tuple(command)
        self.environment = dict(environment)
        self.log_path = log_path
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status of the last run, None before it ended."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the command."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.container.launcher, *self.command],
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._watchdog.started(self._process.pid)

    async def passes(self, probe: Probe) -> bool:
        """Whether the container passes a probe now, whose command is one of this machine."""
        if probe.command:
            process = await asyncio.create_subprocess_exec(
                *probe.command,
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return await process.wait() == 0
        url = f"http://{self.address}:{probe.port}{probe.path}"
        try:
            async with aiohttp.ClientSession() as http, http.get(url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def wait_ended(self, bound: float = START_BOUND) -> int:
        """Wait until the process has ended by itself; return its status."""
        deadline = time.monotonic() + bound
        while (status := self.status) is None:
            if time.monotonic() > deadline:
                raise DeployedError(f"{self.container.name} did not end: {self.log_tail()}")
            await asyncio.sleep(POLL)
        return status

    async def terminate(self, grace: float = 40.0) -> int:
        """SIGTERM, and SIGKILL when the grace is over; return the exit status."""
        return await self._end(signal.SIGTERM, grace)

    async def kill(self) -> None:
        """SIGKILL, as a crash does."""
        await self._end(signal.SIGKILL, 10.0)

    async def _end(self, number: signal.Signals, grace: float) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            status = await asyncio.to_thread(process.wait, grace)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._watchdog.ended(process.pid)
        return status

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the log of all runs."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class Deployment:
    """Containers by name, each with a loopback address; nothing of them is left at the end."""

    def __init__(self, directory: Path, watchdog: Watchdog, names: Sequence[str]) -> None:
        self.directory = directory
        self.watchdog = watchdog
        # Runs beside each other, as those of pytest-xdist, must not meet.
        net = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
        self.addresses = {name: f"{net}.{number}" for number, name in enumerate(names, 1)}
        self._hosts = {name: (address,) for name, address in self.addresses.items()}
        self.names = Names(self._hosts)
        self.running: dict[str, Running] = {}
        # The programs of other images, by the name that a command has for them.
        self.programs: dict[str, tuple[str, ...]] = dict(PROGRAMS)
        self._files: dict[str, dict[str, Path]] = {}

    def add_name(self, name: str, *members: str) -> None:
        """Let a name stand for one or more of the containers, as a service does."""
        self._hosts[name] = tuple(self.addresses[one] for one in members)
        self.names = Names(self._hosts)

    def start(self, container: Container) -> Running:
        """Start a container; `wait_healthy` tells when it passes its probe."""
        home = self.home(container.name)
        files = {path: self._local(home, path, source) for path, source in container.mounts.items()}
        self._files[container.name] = files
        running = Running(
            container,
            self.addresses[container.name],
            self._command(container.command, container.name, files),
            self._environment(container, home, files),
            self.directory / f"{container.name}.log",
            self.watchdog,
        )
        self.running[container.name] = running
        running.start()
        return running

    def home(self, name: str) -> Path:
        """Return the directory of a container, which holds its mounts and temporary files."""
        home = self.directory / name
        home.mkdir(exist_ok=True)
        return home

    def _local(self, home: Path, path: str, source: Path) -> Path:
        """Return where a mounted file or directory is for the process, with names translated."""
        target = home / path.strip("/").replace("/", "-")
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
            for file in target.iterdir():
                self._translate(file)
        else:
            shutil.copy(source, target)
            self._translate(target)
        return target

    def _translate(self, file: Path) -> None:
        """Put addresses for names into a file of YAML."""
        if file.suffix in {".yaml", ".yml"}:
            document = self.names.in_document(yaml.safe_load(file.read_text()))
            file.write_text(yaml.safe_dump(document))

    def _command(
        self, command: Sequence[str], name: str, files: Mapping[str, Path]
    ) -> tuple[str, ...]:
        program, *arguments = command
        address = self.addresses[name]
        return (
            *self.programs.get(program, (_paths(program, files),)),
            # What a container calls its loopback is one of many here.
            *(
                self.names.in_text(_paths(one, files)).replace("127.0.0.1", address)
                for one in arguments
            ),
        )

    def _environment(
        self, container: Container, home: Path, files: Mapping[str, Path]
    ) -> dict[str, str]:
        address = self.addresses[container.name]
        kept = {"PATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
        found = {name: value for name, value in os.environ.items() if name in kept}
        found |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(home), "HOME": str(home)}
        for name, value in container.environment.items():
            if name in HOST_VARIABLES:
                found[name] = self.names.in_list(value)
            elif name not in {"PATH", "PYTHONPATH"}:
                found[name] = self.names.in_text(_paths(value, files))
        # In a container that is every interface of its own; here it is one of many on one machine.
        found |= {"QW_LISTEN_ADDRESS": address, "QW_ADVERTISE_ADDRESS": address}
        if "QW_DATA_DIR" in found:
            found["QW_DATA_DIR"] = str(home)
        return found

    async def execute(self, name: str, *command: str) -> str:
        """Run a command in a container; return what it prints. `DeployedError` when it fails."""
        program, *arguments = command
        process = await asyncio.create_subprocess_exec(
            *self.programs[program],
            *(argument.replace("127.0.0.1", self.addresses[name]) for argument in arguments),
            env=self.running[name].environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise DeployedError(f"{command} in {name}: {said.decode()}")
        return said.decode()

    async def healthy(self, name: str) -> bool:
        """Whether a container passes the probe that its manifest has for it."""
        running = self.running[name]
        probe = running.container.probe
        if probe is None:
            raise DeployedError(f"{name} has no probe")
        if probe.command:
            probe = replace(probe, command=self._command(probe.command, name, self._files[name]))
        return await running.passes(probe)

    async def wait_healthy(self, name: str, bound: float = START_BOUND) -> None:
        """Wait until a container passes its probe."""
        deadline = time.monotonic() + bound
        running = self.running[name]
        while not await self.healthy(name):
            if running.pid is None:
                raise DeployedError(f"{name} has ended with {running.status}: {running.log_tail()}")
            if time.monotonic() > deadline:
                raise DeployedError(f"{name} is not healthy: {running.log_tail()}")
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        """End everything, the last that was started first."""
        for running in reversed(list(self.running.values())):
            await running.kill()


def _paths(text: str, files: Mapping[str, Path]) -> str:
    """Return a text with the paths of mounted files as they are here."""
    for path in sorted(files, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?=$|[/\s?&])", str(files[path]), text)
    return text


@asynccontextmanager
async def deployment(names: Sequence[str]) -> AsyncIterator[Deployment]:
    """Run a deployment of containers with these names; leaves neither process nor directory."""
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-deployed-"))
    watchdog = Watchdog(directory)
    made = Deployment(directory, watchdog, names)
    try:
        yield made
    finally:
        await made.close()
        watchdog.close()
