"""docker-compose.yml as Docker Compose itself understands it, and its services as containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.deployed import Container, Probe
from tests.support.image import image

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
OUR_IMAGE = "metastore-proxy:"
# What the head of the file tells to write to .env.
PASSWORDS = {
    name: f"{name.lower()}-secret"
    for name in (
        "POSTGRES_PASSWORD",
        "OWNER_PASSWORD",
        "READ_WRITE_PASSWORD",
        "READ_ONLY_PASSWORD",
        "REPLICATION_PASSWORD",
        "GRAFANA_PASSWORD",
    )
}


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose on the file; it needs no engine to read and check it."""
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    return subprocess.run(
        [program or "docker-compose", "--file", str(FILE), "--env-file", os.devnull, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@dataclass(frozen=True)
class Service:
    """One service of the file, with all of it resolved."""

    name: str
    document: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether our image runs it."""
        return str(self.document["image"]).startswith(OUR_IMAGE)

    @property
    def needs(self) -> dict[str, str]:
        """The services that must be there before, each with the condition."""
        depends = self.document.get("depends_on", {})
        return {name: one["condition"] for name, one in depends.items()}

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the image's entry point."""
        return tuple(self.document.get("command") or ())

    @property
    def mounts(self) -> dict[str, Path]:
        """The files and directories of these sources that it sees, by where it sees them."""
        return {
            one["target"]: Path(one["source"])
            for one in self.document.get("volumes", ())
            if one["type"] == "bind"
        }

    @property
    def volumes(self) -> dict[str, str]:
        """The named volumes, by where it sees them."""
        return {
            one["target"]: one["source"]
            for one in self.document.get("volumes", ())
            if one["type"] == "volume"
        }

    @property
    def probe(self) -> Probe | None:
        """The health check of the file, else that of our image."""
        check = self.document.get("healthcheck", {})
        if check.get("disable"):
            return None
        kind, *command = check.get("test") or ("CMD", *image().health_command)
        assert kind == "CMD", "a shell is not in every image"
        return Probe(command=tuple(command))

    @property
    def container(self) -> Container:
        """The service as a container of our image."""
        assert self.is_ours
        entrypoint = tuple(self.document.get("entrypoint") or image().entrypoint)
        return Container(
            self.name,
            (*entrypoint, *(self.arguments or image().command)),
            {**image().environment, **self.document.get("environment", {})},
            self.mounts,
            self.probe,
        )


@dataclass(frozen=True)
class ComposeFile:
    """All services, those of profiles among them."""

    document: Mapping[str, Any]
    services: Mapping[str, Service] = field(default_factory=dict)

    def in_order(self, names: set[str]) -> list[Service]:
        """Return services so that each comes after those that it needs."""
        ordered: list[Service] = []

        def visit(name: str) -> None:
            service = self.services[name]
            if service not in ordered and name in names:
                for needed in sorted(service.needs):
                    visit(needed)
                ordered.append(service)

        for name in sorted(names):
            visit(name)
        return ordered


def load(**variables: str) -> ComposeFile:
    """Return the file, with passwords of the tests' own where none are given."""
    made = compose("--profile", "*", "config", "--format", "json", **{**PASSWORDS, **variables})
    if made.returncode != 0:
        raise AssertionError(made.stderr)
    document = json.loads(made.stdout)
    services = {name: Service(name, one) for name, one in document["services"].items()}
    return ComposeFile(document, services)
