"""Keys of the terminal as orders, without waiting for Enter."""

import contextlib
import os
import select
import sys
from typing import Any, Self

ORDERS = {"a": "arm", "r": "reset", " ": "stop", "s": "stop"}


class Keyboard:
    """While it is entered, single keys are read; the terminal is given back as it was."""

    help = "a: arm   r: reset   space: stop   q: leave"

    def __init__(self) -> None:
        self.there = sys.stdin.isatty()
        self.left = False
        """whether ``q`` has been pressed"""
        self._before: Any = None

    def __enter__(self) -> Self:
        if self.there:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *about: object) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def read(self) -> list[str]:
        """The orders of the keys that have been pressed since."""
        found = []
        with contextlib.suppress(OSError):
            while select.select([sys.stdin], [], [], 0)[0]:
                key = os.read(sys.stdin.fileno(), 1).decode(errors="replace")
                if not key:
                    break
                self.left = self.left or key == "q"
                found += [ORDERS[key]] if key in ORDERS else []
        return found
