"""``vla retarget``: from videos of a hand to setpoints of an arm, with a report of how far to trust them."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import get_args

from robot_bridge.arguments import option
from robot_bridge.arms.arm import ARMS
from robot_bridge.retarget.dexterous import fingers
from robot_bridge.retarget.folder import save
from robot_bridge.retarget.hands import SIDES, side_of
from robot_bridge.retarget.keyframes import KeyframesConfig
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.report import write_film, write_report
from robot_bridge.retarget.retarget import (
    Lift,
    RetargetConfig,
    Retargeted,
    read_cameras,
    read_depths,
    read_tracks,
    retarget,
)
from robot_bridge.retarget.tool_path import ToolPathConfig, Turning
from robot_bridge.stage import bare_arm
from vla.errors import UnderstudyError, unknown

EXAMPLES = """\
examples:
  vla retarget front.mp4 side.mp4 --cameras cameras.json --out outputs/retarget     # two cameras: metric
  vla retarget front.mp4 --cameras cameras.json --depth depth/                      # one that measures depth
  vla retarget front.mp4 --cameras cameras.json --held 0.02                         # one, and a table at z = 0
  vla retarget me.mp4                                                               # to look at, not for an arm
  vla drive --demo outputs/retarget                                                 # then the arm does it
  vla retarget front.mp4 side.mp4 --cameras cameras.json --dataset outputs/shown --instruction "stack the cubes"
  vla train policy=cogact data=robot mix=[outputs/shown]                            # drawn by their quality

A video's camera has the name of its file in cameras.json; NAME=VIDEO gives it another. A track.npz of `vla track` may
stand in the place of a video.
"""


FINGERS = "fingers.npz"


@dataclass(frozen=True)
class Asked:
    """What `vla retarget` is asked for."""

    videos: dict[str, Path]
    out: Path
    cameras: Path | None = None
    depth: Path | None = None
    arm: str = "sim"
    arm_options: tuple[tuple[str, object], ...] = ()
    model: Path | None = None
    tool: str = ""
    beyond_m: float = 0.0
    turned_deg: float = 0.0
    config: RetargetConfig = field(default_factory=RetargetConfig)
    film: bool = True
    dataset: Path | None = None
    instruction: str = ""
    dataset_hz: float = 10.0
    image_size: int = 224
    fingers: Path | None = None
    urdfs: Path = Path()


def main(argv: list[str]) -> int:
    """The command."""
    given = _arguments().parse_args(argv)
    if given.arm not in ARMS:
        raise unknown("arm", given.arm, ARMS)
    config = RetargetConfig(
        lift=given.lift,
        side=None if given.hand is None else side_of(given.hand),
        hz=given.hz,
        path=ToolPathConfig(turning=given.turning),
        table=replace(KeyframesConfig(path=ToolPathConfig(turning=given.turning)), held_m=given.held),
    )
    asked = Asked(
        videos=named(given.videos),
        out=given.out,
        cameras=given.cameras,
        depth=given.depth,
        arm=given.arm,
        arm_options=tuple(map(option, given.arm_option)),
        model=given.model,
        tool=given.tool,
        beyond_m=given.beyond,
        turned_deg=given.turned,
        config=config,
        film=not given.no_film,
        dataset=given.dataset,
        instruction=given.instruction,
        dataset_hz=given.dataset_hz,
        image_size=given.image_size,
        fingers=given.fingers,
        urdfs=given.urdfs,
    )
    if asked.dataset is not None:
        check_dataset(asked)
    made = run(asked)
    for segment in made.quality.segments:
        why = f": {'; '.join(segment.reasons)}" if segment.reasons else ""
        sys.stdout.write(f"{segment.name:<8} {segment.start_s:6.2f} – {segment.end_s:5.2f} s  {segment.verdict}{why}\n")
    for reason in made.quality.reasons:
        sys.stdout.write(f"{reason}\n")
    sys.stdout.write(f"{made.quality.verdict}: {asked.out / 'report.html'}\n")
    if asked.dataset is not None:
        rows = taught(asked, made)
        sys.stdout.write(f"{asked.dataset}: {f'{rows} rows more' if rows else 'it was in there already'}\n")
    return 0


def check_dataset(asked: Asked) -> None:
    """Raise `UnderstudyError` for what cannot become an episode, before anything is tracked."""
    video = next(iter(asked.videos.values()))
    if not asked.instruction.strip():
        raise UnderstudyError('--dataset needs the words for what is done: --instruction "put the cube on the left"')
    if video.suffix == ".npz":
        raise UnderstudyError(f"{video} is a track without pictures: a dataset needs the video itself")
    if not (0 < asked.dataset_hz <= asked.config.hz) or asked.image_size < 8:
        raise UnderstudyError(
            f"a dataset has above 0 and up to --hz {asked.config.hz:g} rows a second, and pictures of 8 px or more; "
            f"got {asked.dataset_hz:g} and {asked.image_size}"
        )


def taught(asked: Asked, made: Retargeted) -> int:
    """Add what was made of the first video to the dataset; the rows that it has more."""
    from robot_bridge.retarget.dataset import write_episode

    assert asked.dataset is not None
    return write_episode(
        made,
        next(iter(asked.videos.values())),
        asked.dataset,
        arm=bare_arm(asked.arm, asked.arm_options).spec,
        instruction=asked.instruction,
        hz=asked.dataset_hz,
        image_size=asked.image_size,
    )


def run(asked: Asked) -> Retargeted:
    """Do all of it, and leave it in ``asked.out``."""
    began = monotonic()
    cameras = read_cameras(asked.cameras)
    for name in asked.videos if cameras else ():
        if name not in cameras:
            raise unknown("camera", name, cameras)
    arm = bare_arm(asked.arm, asked.arm_options)
    gripper = {"beyond_m": asked.beyond_m, "turned_deg": asked.turned_deg}
    linkage = linkage_of(arm, model=asked.model, tool=asked.tool, **gripper)
    tracks = read_tracks(asked.videos, asked.out)
    depths = None if asked.depth is None else read_depths(asked.depth)
    made = retarget(tracks, cameras, linkage, arm.spec, config=asked.config, depths=depths)
    if asked.fingers is not None:
        if made.hand is None:
            raise UnderstudyError("the lift plane knows places and no fingers: film with two cameras, or with depth")
        fingers(made.hand, asked.fingers, asked.urdfs, asked.config.path).save(asked.out / FINGERS)
    save(asked.out, made.quality.to_dict(), made.prepared(arm.spec.embodiment, asked.config.hz))
    video = next(iter(asked.videos.values()))
    filmed = asked.film and video.suffix != ".npz"
    if filmed:
        write_film(video, asked.out, made, linkage, cameras)
    facts = {
        "videos": ", ".join(f"{name} ({file})" for name, file in asked.videos.items()),
        "hand": made.path.method,
        "arm": f"{asked.arm} ({arm.spec.embodiment})",
        "setpoints": f"{asked.config.hz:g} Hz",
        "turning": asked.config.path.turning,
        "made in": f"{monotonic() - began:.1f} s",
    }
    write_report(asked.out, made, filmed=filmed, facts=facts)
    return made


def named(videos: Sequence[str]) -> dict[str, Path]:
    """Camera → video, of ``NAME=VIDEO`` or of files called as their cameras; raises `UnderstudyError` for twice one."""
    found: dict[str, Path] = {}
    for one in videos:
        name, equals, file = one.partition("=")
        path = Path(file if equals else one)
        name = name if equals else path.stem
        if name in found:
            raise UnderstudyError(f"two videos of the camera {name}: write NAME=VIDEO")
        if not path.is_file():
            raise UnderstudyError(f"there is no video {path}")
        found[name] = path
    return found


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vla retarget",
        description="Make setpoints of an arm from videos of a hand, and say how far to trust them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help="of one moment, each by a camera of cameras.json")
    add("--cameras", type=Path, metavar="FILE", help="cameras.json of vla calibrate")
    add("--depth", type=Path, help="of the first video: a folder of 16-bit PNGs [mm], or an array in .npy")
    add("--lift", default="auto", choices=get_args(Lift), help="how metres come of pixels (%(default)s)")
    add(
        "--held", type=float, default=0.025, metavar="M", help="with one camera: how high things are held (%(default)s)"
    )
    add("--hand", choices=SIDES, help="the one that is seen more often, if not given")
    add("--turning", default="down", choices=get_args(Turning), help="of the gripper (%(default)s)")
    add("--arm", default="sim", help=f"{', '.join(ARMS)} (%(default)s)")
    add("--arm-option", action="append", default=[], metavar="NAME=VALUE", help="of the arm: host=…, model=…")
    add("--model", type=Path, metavar="FILE", help="MJCF or URDF of an arm of which only the motors are known")
    add("--tool", default="", metavar="NAME", help="site or body in it that is the tool")
    add("--beyond", type=float, default=0.0, metavar="M", help="from the tool to the gripper's fingertips, along its z")
    add("--turned", type=float, default=0.0, metavar="DEG", help="of the gripper about that z (a Franka's hand: -45)")
    add("--hz", type=float, default=50.0, help="setpoints a second (%(default)s)")
    add("--fingers", type=Path, metavar="FILE", help="settings of dex-retargeting: a hand's joints, fingers.npz")
    add("--urdfs", type=Path, default=Path(), metavar="FOLDER", help="where the URDF that they name is (%(default)s)")
    add("--no-film", action="store_true", help="make no film of hand and arm")
    add("--dataset", type=Path, metavar="FOLDER", help="add it to a LeRobot dataset: pictures, setpoints, quality")
    add("--instruction", default="", metavar="WORDS", help="what is done, for the dataset")
    add("--dataset-hz", type=float, default=10.0, help="rows a second of the dataset (%(default)s)")
    add("--image-size", type=int, default=224, help="of the dataset's pictures [px] (%(default)s)")
    add("--out", type=Path, default=Path("outputs/retarget"), help="folder (%(default)s)")
    return parser
