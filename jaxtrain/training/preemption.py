"""Requests to stop: Ctrl-C and SIGTERM, noted and obeyed where nothing is lost."""

import signal
import threading
from types import FrameType
from typing import Any


class StopRequests:
    """While entered, SIGINT and SIGTERM set :attr:`received` instead of ending the process.

    A second Ctrl-C is a ``KeyboardInterrupt`` at once. Outside the main thread, where Python allows no handlers, it
    does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
