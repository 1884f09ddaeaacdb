"""What a dataset holds: a table for people, the same as plain numbers, and a contact sheet.

inspect("data/recorded")
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla.data.lerobot_reader import Dataset, open_dataset
from vla.data.lerobot_writer import current_statistics
from vla.errors import UnderstudyError

if TYPE_CHECKING:
    from rich.console import Console

OUTLIER_IQRS = 3.0
"""A value farther than this many interquartile ranges from the middle half is an outlier (Tukey's "far out")."""
GAP_PERIODS = 1.5
"""Two stamps farther apart than this many nominal periods have a gap between them."""
CONSTANT = 1e-6
IDLE_SHARE = 1e-3
"""An episode whose actions and proprio move less than this share of the dataset's range is idle."""
LISTED = 12
NANOSECONDS = 1e9


@dataclass(frozen=True)
class Dimension:
    """One entry of proprio or actions over all frames; ``outliers``: how many frames lie far out."""

    group: str
    name: str
    min: float
    q01: float
    q99: float
    max: float
    outliers: int
    constant: bool


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    ``fps``: nominal [Hz]; ``measured_fps``: 1 / the median distance of neighbouring stamps, 0 when nothing was
    measured; ``cameras``: name → (height, width); ``black``: cameras that show nothing but black; ``gaps``: (episode,
    frame before the gap, seconds); ``idle``: episodes in which nothing moves; ``successes``: label → episodes;
    ``contact_sheet``: where the picture is.
    """

    root: Path
    episodes: int
    frames: int
    seconds: float
    fps: float
    measured_fps: float
    cameras: dict[str, tuple[int, int]]
    black: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    gaps: tuple[tuple[int, int, float], ...]
    idle: tuple[int, ...]
    successes: dict[str, int]
    instructions: dict[str, int]
    contact_sheet: Path | None


def inspect(root: str | Path, out: str | Path | None = None, *, console: "Console | None" = None) -> Inspection:
    """Read a whole dataset's numbers, print a table, and write a contact sheet.

    Args:
        root: the dataset's folder.
        out: where the contact sheet (PNG) goes; default ``root/contact_sheet.png``.
        console: where the table goes; default standard output.
    """
    from rich.console import Console

    from vla.data.contact_sheet import write_contact_sheet

    dataset = open_dataset(root)
    picture = Path(out) if out is not None else dataset.root / "contact_sheet.png"
    if picture.suffix.lower() != ".png":
        raise UnderstudyError(f"the contact sheet is a PNG file, got {picture}; give a name that ends in .png")
    arrays = [dataset.arrays(info.index) for info in dataset.episodes]
    try:
        sheet = write_contact_sheet(dataset, arrays, picture) if arrays else None
    except OSError as error:
        raise UnderstudyError(f"the contact sheet cannot be written ({error}); give another place (--out)") from error
    found = examine(dataset, arrays, sheet)
    _print(found, console or Console(highlight=False))
    return found


def examine(dataset: Dataset, arrays: list[dict[str, np.ndarray]], sheet: Path | None = None) -> Inspection:
    """The numbers of an `Inspection`; ``arrays``: every episode's `Dataset.arrays`."""
    spec = dataset.spec
    dimensions = [
        *_dimensions("proprio", spec.proprio_names, [entry["proprio"] for entry in arrays]),
        *_dimensions("action", spec.action.names, [entry["actions"] for entry in arrays]),
    ]
    labels = {True: "succeeded", False: "failed", None: "not judged"}
    return Inspection(
        root=dataset.root,
        episodes=len(arrays),
        frames=dataset.num_frames,
        seconds=dataset.num_frames / spec.fps,
        fps=spec.fps,
        measured_fps=_measured_fps(arrays),
        cameras={camera.name: (camera.height, camera.width) for camera in spec.cameras},
        black=_black(dataset),
        dimensions=tuple(dimensions),
        gaps=tuple(_gaps(arrays, spec.fps)),
        idle=tuple(_idle(arrays)),
        successes=dict(Counter(labels[info.success] for info in dataset.episodes)),
        instructions=dict(Counter(info.instruction for info in dataset.episodes).most_common()),
        contact_sheet=sheet,
    )


def _dimensions(group: str, names: tuple[str, ...], parts: list[np.ndarray]) -> list[Dimension]:
    if not parts or not names:
        return []
    values = np.concatenate(parts).astype(np.float64)
    low, q01, q25, q75, q99, high = np.quantile(values, [0, 0.01, 0.25, 0.75, 0.99, 1], axis=0)
    spread = OUTLIER_IQRS * (q75 - q25)
    # An entry that rests most of the time (a gripper) has no spread to be far outside of.
    far = ((values < q25 - spread) | (values > q75 + spread)) & (spread > 0)
    return [
        Dimension(
            group=group,
            name=name,
            min=float(low[n]),
            q01=float(q01[n]),
            q99=float(q99[n]),
            max=float(high[n]),
            outliers=int(far[:, n].sum()),
            constant=bool(high[n] - low[n] < CONSTANT),
        )
        for n, name in enumerate(names)
    ]


def _black(dataset: Dataset) -> tuple[str, ...]:
    stats = current_statistics(dataset.root, dataset.num_frames)
    return tuple(name for name, key in dataset.camera_keys.items() if key in stats and not stats[key]["max"].any())


def _measured_fps(arrays: list[dict[str, np.ndarray]]) -> float:
    steps = [np.diff(entry["stamps_ns"]) for entry in arrays if len(entry["stamps_ns"]) > 1]
    median = float(np.median(np.concatenate(steps))) if steps else 0.0
    return NANOSECONDS / median if median > 0 else 0.0


def _gaps(arrays: list[dict[str, np.ndarray]], fps: float) -> list[tuple[int, int, float]]:
    gaps = []
    for index, entry in enumerate(arrays):
        seconds = np.diff(entry["stamps_ns"]) / NANOSECONDS
        wrong = np.flatnonzero((seconds > GAP_PERIODS / fps) | (seconds <= 0))
        gaps += [(index, int(frame), float(seconds[frame])) for frame in wrong]
    return gaps


def _idle(arrays: list[dict[str, np.ndarray]]) -> list[int]:
    """Episodes in which neither the proprio nor the actions change, measured by how much they change elsewhere."""
    if not arrays:
        return []
    moved = {name: np.stack([np.ptp(entry[name], axis=0) for entry in arrays]) for name in ("proprio", "actions")}
    shares = np.concatenate([part / np.maximum(part.max(0), CONSTANT) for part in moved.values()], axis=1)
    return np.flatnonzero((shares < IDLE_SHARE).all(1)).tolist()


def _print(found: Inspection, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(found):
        facts.add_row(name, Text(text))
    console.print(facts)
    table = Table("", "entry", "min", "q01", "q99", "max", "far out", box=None, pad_edge=False)
    for dimension in found.dimensions:
        numbers = (dimension.min, dimension.q01, dimension.q99, dimension.max)
        remark = "constant" if dimension.constant else str(dimension.outliers or "")
        table.add_row(dimension.group, Text(dimension.name), *(f"{value:.4g}" for value in numbers), remark)
    console.print(table)
    if found.contact_sheet is not None:
        console.print(f"contact sheet: {found.contact_sheet}", soft_wrap=True, markup=False)


def _facts(found: Inspection) -> list[tuple[str, str]]:
    measured = f"{found.measured_fps:.4g} measured" if found.measured_fps else "none measured"
    cameras = ", ".join(
        f"{name} {width}x{height}{' (always black)' if name in found.black else ''}"
        for name, (height, width) in found.cameras.items()
    )
    gaps = [f"episode {episode} after frame {frame}: {seconds:.3f} s" for episode, frame, seconds in found.gaps]
    facts = [
        ("dataset", str(found.root)),
        ("episodes", f"{found.episodes}, {found.frames} frames, {found.seconds:.1f} s"),
        ("fps", f"{found.fps:g} nominal, {measured}"),
        ("cameras", cameras or "none"),
        ("success", ", ".join(f"{count} {label}" for label, count in found.successes.items()) or "none"),
        ("gaps in stamps", _listed(gaps)),
        ("idle episodes", _listed([str(index) for index in found.idle])),
    ]
    words = [f"{count} x {instruction!r}" for instruction, count in found.instructions.items()]
    return [*facts, ("instructions", _listed(words, separator="\n"))]


def _listed(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}… ({len(items)} in all)" if len(items) > LISTED else ""
    return separator.join(items[:LISTED]) + more or "none"
