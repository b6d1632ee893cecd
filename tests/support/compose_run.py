"""The services of docker-compose.yml as processes, started in the order that the file demands."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.demo.postgres_host import Account, choose_account, find_binaries
from tests.support import promtool
from tests.support.compose import ComposeFile, Service
from tests.support.deployed import Container, Deployment, Probe, deployment

ENTRY_POINT = Path(__file__).with_name("postgres_image.sh")
INITDB = "/docker-entrypoint-initdb.d/"
POSTGRES_IMAGE = "postgres:"
PROMETHEUS_IMAGE = "prom/prometheus:"


class ComposeRun:
    """Services that run. `up` starts more of them, each with what it needs."""

    def __init__(self, file: ComposeFile, deployed: Deployment) -> None:
        self.file = file
        self.deployed = deployed
        self._account: tuple[Account, Path] | None = None

    async def up(self, *names: str) -> None:
        """Start services in order, each when the conditions of the file hold."""
        for service in self.file.in_order(set(names)):
            for needed, condition in service.needs.items():
                await self._wait(needed, condition)
            self.deployed.start(self._container(service))
        for name in names:
            if self.file.services[name].probe is not None:
                await self.deployed.wait_healthy(name)

    async def _wait(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            running = self.deployed.running[name]
            status = await running.wait_ended()
            assert status == 0, running.log_tail()
        elif condition == "service_healthy":
            await self.deployed.wait_healthy(name)
        else:
            assert condition == "service_started", condition

    def _container(self, service: Service) -> Container:
        if service.is_ours:
            return service.container
        image = str(service.document["image"])
        if image.startswith(PROMETHEUS_IMAGE):
            return self._prometheus(service)
        assert image.startswith(POSTGRES_IMAGE)
        return self._postgres(service)

    def _prometheus(self, service: Service) -> Container:
        """Return a Prometheus of this machine; `promtool.Missing` when there is none."""
        address = f"{self.deployed.addresses[service.name]}:9090"
        home = self.deployed.home(service.name)
        # The same question as the command's, which a Prometheus older than the image's has not.
        assert service.probe == Probe(command=("promtool", "check", "ready"))
        volumes = [f"--storage.tsdb.path={path}" for path in service.volumes]
        arguments = [one for one in service.arguments if one not in volumes]
        assert len(arguments) + 1 == len(service.arguments)
        return Container(
            service.name,
            (
                str(promtool.binary("prometheus")),
                *arguments,
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address={address}",
            ),
            {},
            service.mounts,
            Probe(port=9090, path="/-/ready"),
        )

    def _postgres(self, service: Service) -> Container:
        """Return a server of the postgres image, on the programs that the demo brings along."""
        if self._account is None:
            self._account = choose_account(find_binaries(), self.deployed.directory)
        account, binaries = self._account
        self.deployed.programs["pg_isready"] = (str(binaries / "pg_isready"),)
        home = self.deployed.home(service.name)
        entrypoint = tuple(service.document.get("entrypoint") or ("/bin/sh", str(ENTRY_POINT)))
        scripts = {path: file for path, file in service.mounts.items() if path.startswith(INITDB)}
        for path, file in scripts.items():
            target = home / "initdb" / path.removeprefix(INITDB)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
        account.own(home)
        # What differs for want of a machine of its own, and of a disk that must survive.
        options = (
            f"listen_addresses={self.deployed.addresses[service.name]}",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",
            "fsync=off",
        )
        return Container(
            service.name,
            (*entrypoint, *service.arguments, *(word for one in options for word in ("-c", one))),
            {
                **service.document.get("environment", {}),
                "PGDATA": str(home / "data"),
                "INITDB": str(home / "initdb"),
            },
            {path: file for path, file in service.mounts.items() if path not in scripts},
            service.probe,
            (*account.prefix, "/usr/bin/env", f"PATH={binaries}:{os.environ['PATH']}"),
        )


@asynccontextmanager
async def compose_run(file: ComposeFile) -> AsyncIterator[ComposeRun]:
    """Lend the services of a file; leaves neither process nor directory."""
    async with deployment(list(file.services)) as deployed:
        yield ComposeRun(file, deployed)
