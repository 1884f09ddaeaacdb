"""Write an evaluation down twice: ``report.json`` for machines and one ``report.html`` for people.

    folder = Path("outputs/eval")
    write_film(folder / "films/lift-7.mp4", frames, fps=20)  # named by EpisodeResult.film = "films/lift-7.mp4"
    report = summarize(results, wall_s={"evaluate": 41.0}, provenance={"command": "vla eval …", "checkpoint": "…"})
    write_report(
        folder,
        report,
        curves="outputs/train/metrics.jsonl",  # or {"Policy": …, "Representation": …}
        films={"All tasks": folder / "all.mp4"},  # overview films; those of the episodes are found by themselves
        action_plots={"Real recording, open loop": {"names": names, "recorded": actions, "predicted": predicted}},
        pictures={"What the camera sees": "camera.png"},
    )

The page carries its films, pictures and charts inside itself. What goes beyond ``embed_limit`` bytes in all stays a
file in the same folder, beside the page; there is no script, and nothing is ever fetched from elsewhere.
"""

import json
import shutil
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from math import ceil, isfinite
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from sim.report_page import ACTION_LINES, films_shown, page
from sim.results import read_report, write_json
from vla.errors import UnderstudyError

EMBED_LIMIT = 8_000_000
CURVE_POINTS = 300
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}


def write_report(
    folder: str | Path,
    report: Mapping[str, Any],
    *,
    curves: str | Path | Mapping[str, str | Path] | None = None,
    films: Mapping[str, str | Path] | None = None,
    action_plots: Mapping[str, Mapping[str, Any]] | None = None,
    pictures: Mapping[str, str | Path] | None = None,
    embed_limit: int = EMBED_LIMIT,
) -> Path:
    """Write ``report.json`` and ``report.html`` into ``folder`` and return the path of the page.

    ``report``: from `sim.results.summarize`; the films that its episodes name are looked for in ``folder``.
    ``curves``: a ``metrics.jsonl`` with a ``step`` in every line, or title → such a file. ``films`` and ``pictures``:
    caption → file, copied into ``folder`` when it is elsewhere. ``action_plots``: title → ``{"names": [A], …}`` with
    one to four of ``recorded``, ``expert``, ``predicted`` and ``executed`` [T, A], in physical units; where there is a
    prediction, its mean absolute error per dimension, against the recording or the expert, is worked out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    full = dict(report)
    if curves is not None:
        runs = curves if isinstance(curves, Mapping) else {"": curves}
        full["curves"] = {title: read_curves(path) for title, path in runs.items()}
    if action_plots:
        full["action_plots"] = {title: _action_plot(title, plot) for title, plot in action_plots.items()}
    for name, files in (("films", films), ("pictures", pictures)):
        if files:
            full[name] = {caption: _adopt(folder, Path(file), name) for caption, file in files.items()}
    # The page is made from what was written, so that it cannot say more than the file.
    written = read_report(write_json(folder / "report.json", full))
    sources = _embedded(folder, _media(written), embed_limit)
    path = folder / "report.html"
    path.write_text(page(written, sources.get), encoding="utf-8")
    return path


def read_curves(path: str | Path, points: int = CURVE_POINTS) -> dict[str, Any]:
    """The numbers of a ``metrics.jsonl``, at most ``points`` per curve, each the mean of as many rows as that takes.

    Returns ``{"step": [N], "series": {name: [N]}, "rows_per_point": int}``; None where nothing finite was logged. A
    last line that was cut off (a run that was killed) is left out; any other broken line is an `UnderstudyError`.
    """
    rows = _rows(Path(path))
    each = max(1, ceil(len(rows) / points))
    chunks = [rows[i : i + each] for i in range(0, len(rows), each)]
    names = dict.fromkeys(key for row in rows for key, value in row.items() if key != "step" and _is_number(value))
    series = {name: [_mean(row.get(name) for row in chunk) for chunk in chunks] for name in names}
    return {"step": [chunk[-1]["step"] for chunk in chunks], "series": series, "rows_per_point": each}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UnderstudyError(f"there are no training curves at {path}; give the metrics.jsonl of a training run")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UnderstudyError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not _is_number(row.get("step")):
            raise UnderstudyError(f"{path}, line {number} has no number called 'step'")
        rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(values: Iterable[Any]) -> float | None:
    finite = [value for value in values if _is_number(value) and isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _action_plot(title: str, plot: Mapping[str, Any]) -> dict[str, Any]:
    names = list(plot["names"])
    lines = {kind: np.asarray(plot[kind], dtype=np.float64) for kind in ACTION_LINES if kind in plot}
    if not lines or any(line.ndim != 2 or line.shape[1] != len(names) or not len(line) for line in lines.values()):
        shapes = {kind: line.shape for kind, line in lines.items()}
        raise UnderstudyError(
            f"the action plot {title!r} needs [T, {len(names)}] values (one column per name) under one of "
            f"{', '.join(ACTION_LINES)}; got {shapes or 'none of them'}"
        )
    written: dict[str, Any] = {"names": names, **{kind: np.round(line, 5).tolist() for kind, line in lines.items()}}
    truth = next((lines[kind] for kind in ("recorded", "expert") if kind in lines), None)
    if truth is not None and "predicted" in lines:
        length = min(len(truth), len(lines["predicted"]))
        error = np.abs(truth[:length] - lines["predicted"][:length])
        written["mean_abs_error"] = np.round(error.mean(axis=0), 6).tolist()
    return written


def _adopt(folder: Path, file: Path, kind: str) -> str:
    """The path of ``file`` relative to ``folder``, after copying it there when it lies elsewhere."""
    if not file.is_file():
        raise UnderstudyError(f"there is no file {file} to show under {kind}")
    if file.suffix not in MEDIA_TYPES:
        raise UnderstudyError(f"{file.name} cannot be shown in a report; allowed: {', '.join(MEDIA_TYPES)}")
    if file.resolve().is_relative_to(folder.resolve()):
        return file.resolve().relative_to(folder.resolve()).as_posix()
    target = folder / kind / file.name
    target.parent.mkdir(exist_ok=True)
    number = 1
    while target.exists() and target.read_bytes() != file.read_bytes():
        number += 1
        target = target.with_name(f"{file.stem}-{number}{file.suffix}")
    shutil.copyfile(file, target)
    return target.relative_to(folder).as_posix()


def _media(report: Mapping[str, Any]) -> Iterator[str]:
    """Every film and picture of the page, the most telling first: one success and one failure of every task."""
    yield from report.get("films", {}).values()
    yield from report.get("pictures", {}).values()
    for rank in zip_longest(*(films_shown(report, task) for task in report["tasks"])):
        yield from (shown[1]["film"] for shown in rank if shown is not None)


def _embedded(folder: Path, paths: Iterable[str], limit: int) -> dict[str, str]:
    """Path → data URI while they fit into ``limit`` bytes, else a link to the file; missing files are left out."""
    sources: dict[str, str] = {}
    for path in paths:
        file = folder / path
        # A report may come from elsewhere: only what lies in its own folder, and only films and pictures, go in.
        inside = file.resolve().is_relative_to(folder.resolve())
        if path in sources or not inside or not file.is_file() or file.suffix not in MEDIA_TYPES:
            continue
        if file.stat().st_size <= limit:
            limit -= file.stat().st_size
            sources[path] = f"data:{MEDIA_TYPES[file.suffix]};base64,{b64encode(file.read_bytes()).decode()}"
        else:
            sources[path] = quote(path)
    return sources
