"""One import from start to end: open the source, go on where the target stands, save episode by episode."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vla.data.importers.lerobot_v2 import open_lerobot_v2, read_json
from vla.data.importers.lerobot_v3 import open_lerobot_v3
from vla.data.importers.rlds import find_rlds, open_rlds
from vla.data.importers.source import Source
from vla.data.importers.spools import open_spools
from vla.data.lerobot_format import INFO
from vla.data.lerobot_reader import open_dataset
from vla.data.lerobot_writer import EpisodeWriter
from vla.errors import UnderstudyError
from vla.spool import find_spools

logger = logging.getLogger(__name__)

FORMATS = (
    "LeRobot v2.0, v2.1, v3.0 (a folder with meta/info.json), RLDS (a folder with features.json and *.tfrecord) "
    "or a robot's spools (*.spool)"
)
LISTED = 12


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    ``imported``: the episodes written now, as the source counts them; ``kept``: how many of the asked ones the target
    already had; ``promised`` and ``found``: episodes by the source's metadata, and really there; ``episodes`` and
    ``frames``: in the target now; ``interrupted``: stopped by Ctrl-C, the same call goes on.
    """

    source: Path
    target: Path
    format: str
    promised: int
    found: int
    imported: tuple[int, ...]
    kept: int
    episodes: int
    frames: int
    seconds: float
    warnings: tuple[str, ...]
    interrupted: bool


def import_dataset(
    source: str | Path,
    target: str | Path,
    *,
    episodes: Iterable[int] | None = None,
    image_size: int | None = None,
    fps: float | None = None,
    progress: bool = False,
) -> ImportReport:
    """Write the recording at ``source`` as a LeRobotDataset v3.0 into ``target``, from index 0 on.

    Every episode is durable once it is written; a call with the same arguments goes on after an interruption.

    Args:
        source: a LeRobot v2.0, v2.1 or v3.0 folder, an RLDS (TFDS) folder, or a robot's spools; it is only read.
        target: a new folder, or one that an earlier import of the same source made.
        episodes: which ones, as the source counts them; default all.
        image_size: resize every image to this many pixels a side, by area; default as recorded.
        fps: the rate [Hz] of an RLDS recording, which does not say it itself.
        progress: show a bar with the time left.

    Raises:
        UnderstudyError: for an unknown format, or at a damaged episode, naming it; those before it are kept.
    """
    began = time.monotonic()
    source, target = Path(source).resolve(), Path(target)
    opened = open_source(source, image_size=image_size, fps=fps)
    warnings = (*opened.warnings, *_promise(opened, source))
    for warning in warnings:
        logger.warning(warning)
    numbers = _chosen(opened, episodes, source)
    writer = EpisodeWriter(target, opened.spec, resume=True)
    present = {info.source for info in open_dataset(target).episodes}
    missing = [number for number in numbers if opened.label(number) not in present]
    imported: list[int] = []
    interrupted = False
    try:
        with writer, _bar(missing, opened.name, shown=progress) as advance:
            for number in missing:
                _import_one(opened, number, writer, source)
                imported.append(number)
                advance()
    except KeyboardInterrupt:
        interrupted = True
    written = open_dataset(target)
    return ImportReport(
        source=source,
        target=target,
        format=opened.format,
        promised=opened.promised,
        found=len(opened.numbers),
        imported=tuple(imported),
        kept=len(numbers) - len(missing),
        episodes=len(written.episodes),
        frames=written.num_frames,
        seconds=time.monotonic() - began,
        warnings=warnings,
        interrupted=interrupted,
    )


def open_source(source: Path, *, image_size: int | None = None, fps: float | None = None) -> Source:
    """Open a recording in whichever format it is; raises `UnderstudyError` for one that is not known."""
    if image_size is not None and image_size < 1:
        raise UnderstudyError(f"image_size is a number of pixels from 1 on, got {image_size}")
    if fps is not None and not fps > 0:
        raise UnderstudyError(f"fps is a rate in Hz above 0, got {fps}")
    if not source.is_dir():
        raise UnderstudyError(f"there is no folder {source}; give the path of a recording (nothing is downloaded)")
    if (source / INFO).is_file():
        version = str(read_json(source / INFO).get("codebase_version", ""))
        if version.startswith("v3"):
            return open_lerobot_v3(source, image_size=image_size)
        if version.startswith("v2"):
            return open_lerobot_v2(source, image_size=image_size)
        raise UnderstudyError(f"{source} says it is LeRobot {version or 'of no version'}; known are {FORMATS}")
    if find_spools(source):
        return open_spools(source, image_size=image_size)
    rlds = find_rlds(source)
    if rlds is None:
        raise UnderstudyError(f"{source} is of no known format; known are {FORMATS}")
    return open_rlds(rlds, image_size=image_size, fps=fps)


def _promise(opened: Source, source: Path) -> tuple[str, ...]:
    found = len(opened.numbers)
    if opened.promised == found:
        return ()
    message = (
        f"the metadata of {source} promises {opened.promised} episodes, {found} are there ({_listed(opened.numbers)}); "
    )
    return (message + "these are imported and counted from 0",)


def _chosen(opened: Source, episodes: Iterable[int] | None, source: Path) -> list[int]:
    if episodes is None:
        return list(opened.numbers)
    asked = set(episodes)
    chosen = [number for number in opened.numbers if number in asked]
    if not chosen:
        raise UnderstudyError(f"none of the episodes asked for is in {source}; it has {_listed(opened.numbers)}")
    return chosen


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers[:LISTED]) + (", …" if len(numbers) > LISTED else "")


def _import_one(opened: Source, number: int, writer: EpisodeWriter, source: Path) -> None:
    try:
        writer.save(opened.read(number))
    except UnderstudyError as error:
        raise UnderstudyError(f"episode {number} of {source} was not imported: {error}") from error


@contextmanager
def _bar(missing: list[int], name: str, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; what it gives is called after every episode."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes,"))
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("left"), console=Console(stderr=True), disable=not shown
    ) as bar:
        task = bar.add_task(f"importing {name}", total=len(missing))
        yield lambda: bar.advance(task)
