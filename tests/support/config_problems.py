"""What a configuration that is refused is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import ConfigError
from tests.unit.config.conftest import Load


def problems(load: Load, *arguments: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **options)
    return caught.value.problems


def the_problem(load: Load, *arguments: Any, **options: Any) -> str:
    (problem,) = problems(load, *arguments, **options)
    return problem
