"""A line that says how far a run is and how long it will take."""

import sys
import time
from typing import TextIO


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 05 s``, ``2 h 10 min``.

    >>> duration(7.6), duration(185), duration(7800)
    ('8 s', '3 min 05 s', '2 h 10 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Rewrites one line on a terminal; prints one every ``interval`` seconds elsewhere.

    Args:
      total: steps of the whole run.
      start: steps that were done before.
      show: False: silence.
    """

    def __init__(
        self, total: int, start: int = 0, *, show: bool = True, stream: TextIO | None = None, interval: float = 5.0
    ):
        self._total, self._first = total, start
        self._stream = stream or sys.stdout
        self._tty = self._stream.isatty()
        self._show, self._interval = show, 0.2 if self._tty else interval
        self._began: float | None = None
        self._last = 0.0
        self._width = 0

    def update(self, step: int, note: str = "") -> None:
        """Tells of the steps done; cheap to call at every step."""
        now = time.monotonic()
        if self._began is None:  # the first step compiles: the clock starts after it
            self._began, self._first = now, step
        if not self._show or (now - self._last < self._interval and step < self._total):
            return
        self._last = now
        done = step - self._first
        rate = done / (now - self._began) if now > self._began and done else 0.0
        left = f"{duration((self._total - step) / rate)} left" if rate else "compiled"
        self.line(f"step {step}/{self._total} {100 * step // self._total:3d} %  {rate:.1f} steps/s  {left}  {note}")

    def line(self, text: str) -> None:
        """Shows a passing line."""
        if self._show:
            end = "" if self._tty else "\n"
            self._stream.write(("\r" if self._tty else "") + text.ljust(self._width if self._tty else 0) + end)
            self._stream.flush()
            self._width = len(text)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self._show:
            if self._tty and self._width:
                self._stream.write("\r" + " " * self._width + "\r")
                self._width = 0
            self._stream.write(text + "\n")
            self._stream.flush()
