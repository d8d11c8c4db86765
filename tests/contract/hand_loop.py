"""An event loop whose time is moved by hand: waiting in it takes none."""

import asyncio
import selectors


class Immediate(selectors.SelectSelector):
    """Never waits; tells how long it should have."""

    def __init__(self):
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise AssertionError("the loop waits for something that will not come")
        self.passed_s += max(0.0, timeout)
        return super().select(0)


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by being waited for."""

    def __init__(self):
        self.hand = Immediate()
        super().__init__(self.hand)

    def time(self):
        return self.hand.passed_s


def by_hand(coroutine):
    with asyncio.Runner(loop_factory=HandLoop) as runner:
        return runner.run(coroutine)
