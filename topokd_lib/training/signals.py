"""Being asked to stop: by a scheduler that needs the machine, or before its time is over."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "listen"]

SIGNALS = tuple(
    number for name in ("SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None
)


class StopRequest:
    """Whether somebody has asked, and how."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name


@contextmanager
def listen() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 instead of dying of them, until the block ends.

    Outside of the main thread signals cannot be received, and the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
