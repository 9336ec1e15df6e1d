"""Going back to a good state, once a run has lost its numbers."""

from __future__ import annotations

from collections.abc import Callable

from pyrovae.training.faults import BadStep, Diverged
from pyrovae.training.keeping import Keeper
from pyrovae.training.session import Session

__all__ = ["Recovery"]


class Recovery:
    """What is done about a bad step: back to the last good state, to look closer at first, then
    with a lower rate.

    Args:
        session: the run.
        keeper: of its states.
        rollbacks: how often it may go on at half the rate.
        say: where to say so.

    Attributes:
        careful: whether every step is examined before it is taken.
    """

    def __init__(
        self, session: Session, keeper: Keeper, rollbacks: int, say: Callable[[str], None]
    ) -> None:
        self.session, self.keeper, self.say = session, keeper, say
        self.rollbacks = rollbacks
        self.careful = False

    def go_back(self, bad: BadStep) -> None:
        """Put the last good state back, and say what is different from there on.

        Raises:
            Diverged: there is nothing left to try.
        """
        session, place = self.session, self.session.place
        again = self.careful and place.rollbacks < self.rollbacks
        # a state is known to be good once another has followed it
        last = self.keeper.last(before=again)
        if last is None:
            raise Diverged(f"{bad}, before any state could be kept. Lower lr")
        session.restore(last)
        session.place.rate, session.place.rollbacks = place.rate, place.rollbacks
        self.keeper.rewrite(session.history.rows)
        if not self.careful:
            self.careful = True
            self.say(f"{bad}: back to step {session.step}, to see where it began")
        elif again:
            self._slow_down(bad)
        else:
            where = "" if session.out is None else f", kept in {session.out}"
            raise Diverged(
                f"{bad}. The weights are those of step {session.step}, the last good "
                f"ones{where}. Lower lr, clip gradients (clip_norm), look for extreme values in "
                f"the data (standardise them), bound the scales, or go back and on at half the "
                f"rate by itself: rollbacks=3"
            )

    def _slow_down(self, bad: BadStep) -> None:
        place = self.session.place
        place.rollbacks, place.rate, self.careful = place.rollbacks + 1, place.rate / 2, False
        self.say(
            f"{bad}: from step {place.step} again at {place.rate:g} times the rate "
            f"(rollback {place.rollbacks} of {self.rollbacks})"
        )
