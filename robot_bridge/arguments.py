"""The command line of ``vla drive``, and how arms and cameras are written on it."""

import argparse
import json
from pathlib import Path
from typing import get_args

from policies.execution import Ensemble
from policies.policy import Realtime
from robot_bridge.arms.arm import ARMS, Box
from robot_bridge.wire import Codec
from vla.errors import UnderstudyError

EXAMPLES = """\
examples:
  vla drive outputs/demo/train --arm sim --arm-option task=tabletop/press-button --episodes 3 --out outputs/drive
  vla drive outputs/train --arm so101 --arm-option port=/dev/ttyACM0 --camera front=0 --instruction "lift the cube"
  vla drive --demo front.mp4 side.mp4 --cameras cameras.json --out outputs/drive
  vla drive --server tcp://10.0.0.7:5555 --key keys/left.key_secret --server-key keys/server.key --arm ur \\
      --arm-option host=10.0.0.9 --camera front=0 --instruction "lift the cube" --shadow

keys: a arm, r reset, space stop, q leave; from another terminal: vla order stop
"""


def drive_arguments() -> argparse.ArgumentParser:
    """All that ``vla drive`` may be told."""
    parser = argparse.ArgumentParser(
        "vla drive",
        description="Drive an arm, simulated or real, by a policy.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        nargs="?",
        help="folder of a checkpoint; served on this machine unless --server is given",
    )
    add("--arm", default="sim", help=f"{', '.join(ARMS)} (%(default)s)")
    add("--arm-option", action="append", default=[], metavar="NAME=VALUE", help="of the arm: port=…, host=…, task=…")
    add(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=WHICH",
        help="a number, a path, or LeRobot's settings as JSON",
    )
    add("--instruction", default="", help="what to do; in simulation the task says it")
    add("--prompt", type=Path, metavar="VIDEO", help="a video of somebody doing it, for a policy that is shown")
    add("--goal", type=Path, metavar="IMAGE", help="what it should see in the end (of a video, the last frame)")
    add("--server", default="", help="tcp://HOST:PORT of `vla serve`")
    add("--key", type=Path, help="this robot's .key_secret")
    add("--server-key", type=Path, help="the server's .key")
    add("--name", default="arm", help="of the arm at the server, which lets one robot drive it (%(default)s)")
    add("--episodes", type=int, default=1, help="%(default)s")
    add("--seconds", type=float, default=30.0, help="of an episode, at most (%(default)s)")
    add("--seed", type=int, default=0, help="of the policy's noise (%(default)s)")
    add("--ensemble", default="newest", choices=get_args(Ensemble), help="of chunks that overlap (%(default)s)")
    add("--exec-horizon", type=int, help="steps between two chunks; the policy's own, if not given")
    add("--realtime", default="none", choices=get_args(Realtime), help="real-time chunking (%(default)s)")
    add("--codec", default="raw", choices=get_args(Codec), help="of pictures; jpeg for 1 Gb/s and less (%(default)s)")
    add("--workspace", type=float, nargs=6, metavar="M", help="box of the tool, in the base's frame: x y z, x y z")
    add("--interpolation", default="spline", choices=("spline", "steps"), help="%(default)s")
    add("--shadow", action="store_true", help="look and ask, but send nothing to the arm")
    add("--demo", nargs="+", metavar="VIDEO", help="do what a hand does in videos, or in a folder of vla retarget")
    add("--cameras", type=Path, metavar="FILE", help="cameras.json of these videos, of vla calibrate")
    add("--replay", type=Path, metavar="DATASET", help="play its first episode again, without a policy")
    add("--record", type=Path, metavar="DATASET", help="write episodes there, in the format of training")
    add("--out", type=Path, help="folder of the run's report")
    add("--open", action="store_true", help="show the reports in the browser when it is done")
    add("--rerun", action="store_true", help="show live views (needs the package rerun-sdk)")
    return parser


def pair(text: str) -> tuple[str, str]:
    """``name=value``; raises `UnderstudyError` for anything else."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UnderstudyError(f"{text!r} is not written name=value")
    return name, value


def option(text: str) -> tuple[str, object]:
    """``name=value`` of an arm, the value as JSON says or as it stands."""
    name, value = pair(text)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def box(corners: list[float]) -> Box:
    """Six numbers as two corners; raises `UnderstudyError` when they are none."""
    low, high = (corners[0], corners[1], corners[2]), (corners[3], corners[4], corners[5])
    if not all(one < other for one, other in zip(low, high, strict=True)):
        raise UnderstudyError(f"a workspace is written lowest x y z, then highest x y z [m]; got {corners}")
    return low, high


def camera(value: str) -> object:
    """A number or a path, or all of LeRobot's settings of a camera as JSON."""
    if value.startswith("{"):
        return json.loads(value)
    return {"type": "opencv", "index_or_path": int(value) if value.isdigit() else value}
