"""Being asked to stop: by a scheduler that needs the machine, or before its time is over."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning_fabric import Fabric

from topokd_lib.errors import Interrupted

__all__ = ["StopRequest", "Stops", "end_when_asked", "listen"]

SIGNALS = tuple(
    number for name in ("SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None
)

AGREE_EVERY = 10
"""Steps between two moments at which several processes agree whether to stop; each costs a small message."""


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
    with _handled_by(request._note):
        yield request


@contextmanager
def end_when_asked() -> Iterator[None]:
    """End at SIGTERM and SIGUSR1 where the program happens to be, for work that may be killed at any time.

    Raises:
        Interrupted: At a signal, so that the command can say that it goes on, and end with its own status.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}; the same command goes on from what is complete"
        )

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class Stops:
    """When to store the state in the middle of an epoch, and whether to end then; all processes agree.

    Args:
        fabric: The processes.
        request: What this one was asked.
        minutes: Between two states that are stored without being asked; 0 stores none.
    """

    def __init__(self, fabric: Fabric, request: StopRequest, minutes: float = 0.0) -> None:
        self.stop = False
        self._fabric, self._request, self._pause = fabric, request, 60 * minutes or math.inf
        self._stored = time.monotonic()

    @property
    def reason(self) -> str:
        """The signal; another process may have received it."""
        return self._request.signal or "a signal to another process"

    def due(self, step: int | None = None) -> bool:
        """Whether to store now, and then to look at :attr:`stop`.

        Args:
            step: Of the epoch; ``None`` between epochs, when the state is stored anyway.
        """
        wanted = [bool(self._request), time.monotonic() - self._stored >= self._pause]
        if self._fabric.world_size > 1:
            if step is not None and step % AGREE_EVERY:
                return False
            flags = torch.tensor(wanted, dtype=torch.float32, device=self._fabric.device)
            wanted = (torch.as_tensor(self._fabric.all_reduce(flags, reduce_op="max")) > 0).tolist()
        self.stop = wanted[0]
        if any(wanted) or step is None:
            self._stored = time.monotonic()
        return any(wanted)
