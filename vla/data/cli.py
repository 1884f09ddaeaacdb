"""``vla data import | inspect | repair | motion | fetch-assets``."""

import argparse
import re

from vla.errors import UnderstudyError

RANGE = re.compile(r"(\d+)(?:-(\d+))?")
INTERRUPTED = 130
"""The shell's exit code for a program stopped by Ctrl-C."""


def main(argv: list[str]) -> int:
    """Carry out ``vla data …`` and return the exit code; raises `UnderstudyError` for what does not fit."""
    options = _parser().parse_args(argv)
    return options.run(options)


def parse_episodes(text: str) -> list[int]:
    """``"0-9,12"`` → the numbers; raises `UnderstudyError` for anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        if match is None:
            raise UnderstudyError(f"episodes are written like 0-9 or 0,3,7-12, got {text!r}")
        first = int(match[1])
        numbers += range(first, int(match[2] or first) + 1)
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla data", description="Robot recordings: import, look at, repair.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add = _verb(
        verbs,
        "import",
        "make a LeRobot v3.0 dataset of a recording (LeRobot v2.0, v2.1, v3.0, RLDS or a robot's spools)",
        "vla data import recordings/bridge data/bridge --image-size 128 --episodes 0-9",
    )
    add.add_argument("source", metavar="SOURCE", help="the recording's folder; its format is detected; it is only read")
    add.add_argument("target", metavar="TARGET", help="a new folder, or one where an earlier import was interrupted")
    add.add_argument("--image-size", type=int, metavar="N", help="resize images to N x N pixels (default: as recorded)")
    add.add_argument("--episodes", metavar="0-9", help="only these, as the source counts them (default: all)")
    add.add_argument("--fps", type=float, metavar="HZ", help="the rate of an RLDS recording, which does not say it")
    add.set_defaults(run=_import)
    add = _verb(
        verbs, "inspect", "say what a dataset holds, and draw a contact sheet of it", "vla data inspect data/bridge"
    )
    add.add_argument("path", metavar="PATH", help="the dataset's folder")
    add.add_argument("--out", metavar="PNG", help="where the contact sheet goes (default: PATH/contact_sheet.png)")
    add.set_defaults(run=_inspect)
    add = _verb(
        verbs, "repair", "mend a dataset that was cut off while it was written", "vla data repair data/recorded"
    )
    add.add_argument("path", metavar="PATH", help="the dataset's folder; what cannot be saved is moved to PATH/torn")
    add.set_defaults(run=_repair)
    add = _verb(
        verbs,
        "motion",
        "make a dataset of films from a camera in the hand: its motion is the action",
        "vla data motion recordings/films outputs/filmed --fov 60 --rate 5",
    )
    add.add_argument("videos", metavar="VIDEOS", help="a folder of videos, with or without captions; it is only read")
    add.add_argument("target", metavar="TARGET", help="a new folder, or one where this was interrupted")
    add.add_argument("--fov", type=float, required=True, metavar="DEGREES", help="that the shorter side sees")
    add.add_argument("--rate", type=float, default=5.0, metavar="HZ", help="frames a second (default: %(default)s)")
    add.add_argument("--image-size", type=int, default=96, metavar="N", help="pixels a side (default: %(default)s)")
    add.set_defaults(run=_motion)
    add = _verb(
        verbs,
        "fetch-assets",
        "copy the meshes and textures that a simulator needs to where its suite looks for them",
        "vla data fetch-assets libero --from ~/LIBERO",
    )
    add.add_argument("simulator", choices=("libero",), metavar="SIMULATOR", help="libero")
    add.add_argument(
        "--from", dest="source", required=True, metavar="DIR", help="a checkout of its repository, or of its assets"
    )
    add.add_argument("--to", metavar="DIR", help="default: UNDERSTUDY_LIBERO_ASSETS, else in the user's cache")
    add.set_defaults(run=_fetch_assets)
    return parser


def _verb(verbs: argparse._SubParsersAction, name: str, about: str, example: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _import(options: argparse.Namespace) -> int:
    from rich.console import Console

    from vla.data.importers import import_dataset

    report = import_dataset(
        options.source,
        options.target,
        episodes=parse_episodes(options.episodes) if options.episodes else None,
        image_size=options.image_size,
        fps=options.fps,
        progress=True,
    )
    kept = f", {report.kept} were there already" if report.kept else ""
    Console(highlight=False, soft_wrap=True).print(
        f"{report.format}: {len(report.imported)} episodes imported in {report.seconds:.1f} s{kept}; "
        f"{report.target} holds {report.episodes} episodes, {report.frames} frames",
        markup=False,
    )
    if report.interrupted:
        Console(stderr=True).print("stopped; the finished episodes are kept: the same command goes on", markup=False)
        return INTERRUPTED
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from vla.data.inspect import inspect

    inspect(options.path, options.out)
    return 0


def _repair(options: argparse.Namespace) -> int:
    from rich.console import Console

    from vla.data.repair import repair

    console = Console(highlight=False, soft_wrap=True)
    for line in repair(options.path).lines():
        console.print(line, markup=False)
    return 0


def _motion(options: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from vla.data.egomotion import dataset_of

    about = {"fov": options.fov, "rate": options.rate, "image_size": options.image_size}
    qualities = dataset_of(Path(options.videos), Path(options.target), **about)
    mean = f", of whose corners {sum(qualities) / len(qualities):.0%} agree" if qualities else ""
    sys.stdout.write(f"{len(qualities)} films added{mean}: {options.target}\n")
    return 0


def _fetch_assets(options: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from vla.data.assets import FOLDER, MANIFEST, fetch_libero, libero_folder

    got = fetch_libero(Path(options.source), Path(options.to) if options.to else None)
    trust = (
        "the same as at the first fetch" if got.known else f"taken as they are; their hashes now stand in {MANIFEST}"
    )
    sys.stdout.write(f"{got.files} files, {got.size / 1e6:.1f} MB, in {got.folder}: {trust}\n")
    if got.folder != libero_folder():
        sys.stdout.write(f"the suite looks there when {FOLDER}={got.folder} is set\n")
    return 0
