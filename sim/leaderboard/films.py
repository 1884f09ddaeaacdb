"""The films of a leaderboard: one success and one failure of each policy on each task, in the page or beside it."""

import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sim.report import EMBED_LIMIT, MEDIA_TYPES
from vla.markup import Markup, el

Entry = Mapping[str, Any]
WORDS = {"success": ("ok", "✓ success in"), "failure": ("ko", "✗ failure after")}


def sources(board: Entry, page: Path, limit: int = EMBED_LIMIT) -> dict[tuple[str, str], str]:
    """(run's folder, film) → a data URI while they fit into ``limit`` bytes, else a link relative to ``page``.

    Films that are missing, or that lie outside of their run's folder, are left out: a report may come from elsewhere.
    """
    found: dict[tuple[str, str], str] = {}
    for shown in _in_turn(board):
        folder = Path(shown["folder"])
        file = folder / shown["film"]
        inside = file.resolve().is_relative_to(folder.resolve())
        if not inside or not file.is_file() or file.suffix not in MEDIA_TYPES:
            continue
        if file.stat().st_size <= limit:
            limit -= file.stat().st_size
            source = f"data:{MEDIA_TYPES[file.suffix]};base64,{b64encode(file.read_bytes()).decode()}"
        else:
            source = quote(Path(os.path.relpath(file, page.parent)).as_posix())
        found[shown["folder"], shown["film"]] = source
    return found


def _in_turn(board: Entry) -> Iterator[Entry]:
    """Every film that is shown, each policy's first one first."""
    of_rows = [[shown for kinds in row["films"].values() for shown in kinds.values()] for row in board["rows"]]
    for rank in zip_longest(*of_rows):
        yield from (shown for shown in rank if shown is not None)


def film_cards(row: Entry, source: Callable[[Entry], str | None]) -> Markup:
    """A policy's films, folded away, a card a task."""
    cards = []
    for task, kinds in row["films"].items():
        figures = [_figure(kind, kinds[kind], source(kinds[kind]), row["trainings"]) for kind in WORDS if kind in kinds]
        cards.append(el("div", el("b", task.partition("/")[2] or task), el("div", *figures), class_="card"))
    return el("details", el("summary", el("b", row["name"])), el("div", *cards, class_="cards"), class_="card")


def _figure(kind: str, shown: Entry, src: str | None, trainings: int) -> Markup:
    colour, words = WORDS[kind]
    of = f", training {shown['training'] + 1}" if trainings > 1 else ""
    caption = (
        el("b", f"{words} {shown['steps']} steps", class_=colour),
        el("span", f"seed {shown['seed']}{of}", class_="muted"),
    )
    if src is None:
        missing = el("span", f"(there is no film at {shown['film']})", class_="muted")
        return el("figure", el("figcaption", *caption, missing))
    if shown["film"].endswith(".mp4"):
        screen = el("video", src=src, controls=True, muted=True, loop=True, playsinline=True, preload="none")
    else:
        screen = el("img", src=src, alt="", loading="lazy")
    return el("figure", screen, el("figcaption", *caption))
