"""What the Dockerfile says of the image: its entry point, environment, health check and files."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "config" / "docker" / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals and the rest of it, lines joined."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The value's words, of the JSON form or of the other."""
        return json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)


@dataclass(frozen=True)
class Image:
    """The Dockerfile by its stages, of which the last one is the image."""

    stages: tuple[tuple[Instruction, ...], ...]

    def last(self, name: str) -> Instruction:
        """Return the last instruction of a name in the image."""
        return [one for one in self.stages[-1] if one.name == name][-1]

    def all(self, name: str) -> list[Instruction]:
        """Return all instructions of a name, of every stage."""
        return [one for stage in self.stages for one in stage if one.name == name]

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """The program, to which a container's arguments are added."""
        return tuple(self.last("ENTRYPOINT").words)

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments of a container that has none."""
        return tuple(self.last("CMD").words)

    @property
    def health_command(self) -> tuple[str, ...]:
        """What `HEALTHCHECK` runs."""
        before, _, command = self.last("HEALTHCHECK").value.partition("CMD ")
        assert before.startswith("--interval")
        return tuple(json.loads(command))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a container has."""
        pairs = [
            word.split("=", 1) for one in self.stages[-1] if one.name == "ENV" for word in one.words
        ]
        return dict(pairs)


@cache
def image() -> Image:
    """Return our image."""
    parser = DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes()))
    stages: list[list[Instruction]] = []
    for item in parser.structure:
        if item["instruction"] == "FROM":
            stages.append([])
        if item["instruction"] != "COMMENT":
            stages[-1].append(Instruction(item["instruction"], item["value"]))
    return Image(tuple(tuple(stage) for stage in stages))
