"""Errors for the person at the keyboard: what was given, what is allowed, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UnderstudyError(ValueError):
    """Something from outside (an argument, a file, a dataset) does not fit.

    The command line prints the message as one line and exits with code 2, without a traceback.
    """


def first_line(error: Exception) -> str:
    """What went wrong, in one line: the start of a message that may go on for pages."""
    return " ".join(str(error).split("\n")[:2]).strip()


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UnderstudyError:
    """The error for a name that does not exist, naming the nearest one that does.

    >>> raise unknown("task", "tabletop/lift-red-cub", ["tabletop/lift-red-cube"])
    Traceback (most recent call last):
    vla.errors.UnderstudyError: unknown task 'tabletop/lift-red-cub'; did you mean 'tabletop/lift-red-cube'?
    """
    names = sorted(allowed)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    if near:
        return UnderstudyError(f"unknown {kind} {given!r}; did you mean {near[0]!r}?")
    listed = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    return UnderstudyError(f"unknown {kind} {given!r}; allowed: {listed}")
