"""Signals that end a program, as an exception that cleans up on its way: no hidden folder, no half of a file stays."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
PATIENCE_S = 2.0
"""How long a second signal is ignored, so that cleaning up after the first is not interrupted."""


class Interrupted(BaseException):
    """A signal that ends the command. Not an Exception: what catches errors of a case lets it pass."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = signal.Signals(number).name
        super().__init__(self.name)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise Interrupted in the main thread, so that everything cleans up.

    A signal that is ignored (nohup) or has a handler of its own keeps it. In a process that was forked off here the
    signals do what they do by default.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, last = os.getpid(), -PATIENCE_S

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if time.monotonic() - last >= PATIENCE_S:
            last = time.monotonic()
            raise Interrupted(number)

    before: dict[int, Any] = {}
    for name in ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
