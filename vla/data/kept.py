"""Rows that take long to make, computed once and kept on disk: features of frames, latents of frames.

folder/  about.json   what they were made from, and how many are there
         rows.npy     [N, …], read through a memory map
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla.errors import UnderstudyError

ABOUT, ARRAY = "about.json", "rows.npy"
BATCH, NOTED = 32, 16
"""Rows at a time; batches between two notes of how far it has come."""

MakeRows = Callable[[np.ndarray], np.ndarray]
"""Numbers [B] of rows → those rows [B, …]."""


def kept_rows(
    folder: Path, key: Mapping[str, Any], total: int, prepare: Callable[[], MakeRows], *, what: str
) -> np.ndarray:
    """``total`` rows from ``folder``, or made and put there; a stopped run goes on.

    ``prepare`` is called when something is left to do; ``what`` they are, for messages. Raises `UnderstudyError` when
    ``folder`` holds rows that were made from something else, and names what differs.
    """
    told = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).is_file() else None
    if told is not None and told["key"] != dict(key):
        other = [name for name in key if told["key"].get(name) != key[name]]
        was = ", ".join(f"{name} {told['key'].get(name)!r} instead of {key[name]!r}" for name in other)
        raise UnderstudyError(f"the {what} in {folder} are stale: made with {was}; delete the folder or give another")
    if told is None or told["done"] < total:
        _fill(folder, key, total, prepare(), done=0 if told is None else told["done"], what=what)
    return np.load(folder / ARRAY, mmap_mode="r")


def _fill(folder: Path, key: Mapping[str, Any], total: int, make: MakeRows, *, done: int, what: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(folder / ARRAY, mode="r+") if done else None
    bars = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bars, TextColumn("left"), TimeRemainingColumn()) as progress:
        bar = progress.add_task(what, total=total, completed=done)
        for start in range(done, total, BATCH):
            rows = np.arange(start, min(start + BATCH, total))
            made = make(rows)
            if array is None:
                shape = (total, *made.shape[1:])
                array = np.lib.format.open_memmap(folder / ARRAY, mode="w+", dtype=made.dtype, shape=shape)
            array[rows] = made
            done = int(rows[-1]) + 1
            progress.update(bar, completed=done)
            if start // BATCH % NOTED == NOTED - 1 or done == total:
                array.flush()
                (folder / ABOUT).write_text(json.dumps({"key": dict(key), "done": done}, indent=2) + "\n")
