"""What a training run tells: a progress bar, ``metrics.jsonl`` and TensorBoard's event files."""

import json
from pathlib import Path
from time import perf_counter
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

METRICS = "metrics.jsonl"


class Tracker:
    """Logs scalars of a run in ``folder``; a context manager. ``quiet`` (ranks above 0) writes and shows nothing.

    After a resume the lines of steps that are done again are dropped first, so that each step stands there once.
    """

    def __init__(self, folder: Path, *, steps: int, start: int, quiet: bool = False) -> None:
        self._quiet = quiet
        self._clock, self._seen = perf_counter(), 0
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f} · {task.fields[rate]:.0f} samples/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            disable=quiet,
        )
        self._bar = self._progress.add_task("train", total=steps, completed=start, loss=float("nan"), rate=0.0)
        if quiet:
            return
        from torch.utils.tensorboard.writer import SummaryWriter  # two seconds that only a training run needs

        path = folder / METRICS
        kept = [line for line in path.read_text().splitlines() if _step(line) <= start] if path.is_file() else []
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> Self:
        self._progress.start()
        self._clock = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if not self._quiet:
            self._file.close()
            self._board.close()

    def count(self, samples: int) -> None:
        """One step more, of so many samples."""
        self._seen += samples
        self._progress.advance(self._bar)

    def log(self, step: int, **scalars: float) -> None:
        """Write the scalars of ``step``, with the samples/s since the last call."""
        now = perf_counter()
        row = {**scalars, "samples_per_s": self._seen / max(now - self._clock, 1e-9)}
        self._clock, self._seen = now, 0
        self._progress.update(self._bar, loss=row.get("loss", float("nan")), rate=row["samples_per_s"])
        if self._quiet:
            return
        self._file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in row.items()}}) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, step)


def _step(line: str) -> int:
    """The step of a line of metrics; a line that a kill cut in two counts as not there."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62
