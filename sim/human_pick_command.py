"""``vla human pick``: a film of a hand that picks and places a cube, and the cameras that took it: to try the rest on.

out/front.mp4  side.mp4  cameras.json      what `vla retarget` and `vla drive --demo` are given
    depth-side/000000.png …                with ``--depth side``: 16 bits, millimetres
    truth.npz                              where hand and cube really were (`sim.human_pick.PickTruth`)
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import cv2
import numpy as np

from robot_bridge.retarget.cameras import save_cameras
from robot_bridge.retarget.hands import Side
from sim.human_pick import VIEWS, PickFilm, pick_film
from sim.pool import with_progress
from sim.tasks.tabletop_film import task_of
from vla.data.video import write_mp4
from vla.errors import UnderstudyError, unknown

EXAMPLES = """\
examples:
  vla human pick --number 3 --out outputs/pick
  vla drive --demo outputs/pick/front.mp4 outputs/pick/side.mp4 --cameras outputs/pick/cameras.json \\
      --arm-option task=film/3
  vla human pick --cameras quarter --depth quarter --out outputs/pick-rgbd
"""


def main(argv: list[str]) -> int:
    """The command."""
    given = _arguments().parse_args(argv)
    for name in (*given.cameras, *given.depth):
        if name not in VIEWS:
            raise unknown("camera", name, VIEWS)
    if odd := set(given.depth) - set(given.cameras):
        raise UnderstudyError(f"--depth {' '.join(sorted(odd))}: only cameras that film can measure depth")
    film = pick_film(given.number, cameras=given.cameras, fps=given.fps, seconds=given.seconds, side=given.hand)
    write(film, given.out, depth=given.depth)
    videos = " ".join(str(given.out / f"{name}.mp4") for name in given.cameras)
    sys.stdout.write(
        f"{given.out}: try\n  vla drive --demo {videos} --cameras {given.out / 'cameras.json'} --arm-option "
        f"task={task_of(given.number, given.hand)}\n"
    )
    return 0


def write(film: PickFilm, out: Path, *, depth: Iterable[str] = ()) -> None:
    """Draw the film and write all of it into the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    depth, count = list(depth), len(film.truth.stamps)
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in film.cameras}
    for name in depth:
        (out / f"depth-{name}").mkdir(exist_ok=True)
    drawn = with_progress(film.frames(depth=depth), what="film", total=count)
    for number, frame in enumerate(drawn):
        for name, picture in frame.color.items():
            pictures[name].append(picture)
        for name, far in frame.depth.items():
            millimetres = np.where(np.isfinite(far), np.round(1000 * far), 0).astype(np.uint16)
            cv2.imwrite(str(out / f"depth-{name}/{number:06d}.png"), millimetres)
    for name, frames in pictures.items():
        write_mp4(out / f"{name}.mp4", zip(film.truth.stamps.tolist(), frames, strict=True), fps=film.fps)
    save_cameras(out / "cameras.json", film.cameras)
    np.savez_compressed(out / "truth.npz", **asdict(film.truth))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vla human pick",
        description="Film a simulated hand that takes a cube and puts it elsewhere, with calibrated cameras.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--number", type=int, default=0, help="decides all that happens (%(default)s)")
    add("--cameras", nargs="+", default=["front", "side"], metavar="NAME", help=f"{', '.join(VIEWS)}")
    add("--depth", nargs="+", default=[], metavar="NAME", help="cameras that measure depth besides")
    add("--hand", default="right", choices=get_args(Side), help="(%(default)s)")
    add("--seconds", type=float, default=7.0, help="how long it takes (%(default)s)")
    add("--fps", type=float, default=15, help="frames a second (%(default)s)")
    add("--out", type=Path, default=Path("outputs/pick"), help="folder (%(default)s)")
    return parser
