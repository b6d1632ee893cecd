"""What speaks against a backend has words in every place that shows it."""

from __future__ import annotations

import re
from importlib import resources

from proxy.routing.figures import ELIGIBLE, REASONS
from proxy.routing.members import BackendState
from proxy.server.status import reasons


def test_every_reason_has_words() -> None:
    assert reasons.REASONS.keys() == set(REASONS) - {ELIGIBLE}
    for reason in reasons.REASONS.values():
        assert reason.verdict
        assert reason.trouble


def test_only_what_passes_by_itself_has_no_advice() -> None:
    without = {name for name in reasons.REASONS if not reasons.advice_for(name)}
    assert without == {"connecting", "filling"}
    assert reasons.advice_for(ELIGIBLE) == ""


def test_the_page_has_a_short_name_for_each() -> None:
    script = resources.files("proxy.server.status").joinpath("page", "status.js").read_text()
    found = re.search(r"const SHORT = \{(.*?)\};", script, re.DOTALL)
    assert found is not None
    named = set(re.findall(r"(\w+): ", found[1]))
    # A backend that does not serve shows its state.
    assert named == set(REASONS) - {state.value for state in BackendState}
