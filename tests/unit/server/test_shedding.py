"""Load shedding: a bound for each RPC of its own, given back at the end of a call."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.routing.catalogue import RPCS
from proxy.server.shedding import Shedder

LIST = RPCS["ListSplits"]
STAGE = RPCS["StageSplits"]


def test_a_call_past_the_bound_is_refused() -> None:
    shedder = Shedder(2)
    with shedder.admit(LIST), shedder.admit(LIST):
        with pytest.raises(errors.TooManyRequests), shedder.admit(LIST):
            pass
        assert shedder.in_flight == 2


def test_each_rpc_has_its_own_bound() -> None:
    shedder = Shedder(1)
    with shedder.admit(LIST), shedder.admit(STAGE):
        assert shedder.in_flight == 2


def test_a_failed_call_gives_its_permit_back() -> None:
    shedder = Shedder(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="boom"), shedder.admit(LIST):
            raise ValueError("boom")
    assert shedder.in_flight == 0
