"""What is said of workers, in words."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.workers.crew import describe_workers, trouble_of


def workers(*states: str) -> list[dict[str, Any]]:
    """Return workers as the parent tells of them; each gives its state as its reason."""
    return [
        {"number": number, "status": state, "reason": "" if state == "serving" else f"is {state}"}
        for number, state in enumerate(states, 1)
    ]


def test_all_that_do_not_serve_are_named() -> None:
    told = describe_workers(workers("serving", "ended", "not_ready"))
    assert told == "1 of 3 workers serve; worker 2: is ended; worker 3: is not_ready"


@pytest.mark.parametrize(
    ("states", "is_trouble"),
    [
        (("serving", "serving"), False),
        (("serving", "ended"), True),
        (("serving", "starting"), True),
        (("serving", "not_ready"), True),
        # The node's own state says it: it has no backend, or no database.
        (("not_ready", "not_ready"), False),
        (("not_ready", "ended"), True),
        (("starting", "serving"), False),
        ((), False),
    ],
)
def test_trouble_is_what_the_first_worker_does_not_share(
    states: tuple[str, ...], is_trouble: bool
) -> None:
    assert bool(trouble_of(workers(*states))) is is_trouble
