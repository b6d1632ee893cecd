"""Turns of the lists of splits, so that however many are under way, short calls are served soon.

Measured with 64 lists of 100,000 splits at once on 2 cores: what holds up short calls is not the
event loop but the database, which makes as many batches at once as it is asked for, and begins a
process for each new session.
"""

from __future__ import annotations

from typing import Final

from proxy.store.slots import Slots

# First rows of lists that are asked for at once: most lists have no more. With fewer a short list
# waits for others while the database has time for it.
LOOKS: Final = 16
# Sessions that are opened at once for those.
OPENINGS: Final = 4
# Batches of long lists that the database makes at once. With more of them short statements wait for
# all, and the node cannot render what arrives.
BATCHES: Final = 2
# How long one may keep the others waiting, in seconds.
SLOW: Final = 0.25


class ListTurns:
    """Who among the lists of one database may go on.

    `looks` is taken for the first rows of a list, and `openings` where a session must be opened
    for them; `batches` for each batch of a long one, also for opening its session. `places` is held
    by a long list as long as it has a session: a fifth of `most` sessions is left to other calls. A
    list that waits for one gets `TimeoutError` when none is given back for `patience` seconds.
    """

    def __init__(self, most: int, *, patience: float) -> None:
        self.looks = Slots(LOOKS, bound=SLOW)
        self.openings = Slots(OPENINGS, bound=SLOW)
        self.batches = Slots(BATCHES, bound=SLOW)
        self.places = Slots(places(most), bound=None, patience=patience)


def places(most: int) -> int:
    """Return how many of `most` sessions long lists may have: one at least."""
    return max(1, most - max(1, most // 5))
