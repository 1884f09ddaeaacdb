"""How quick and how exact the way from a hand's video to an arm is, on a rendered hand whose truth is known.

Errors are of the pinch point, in millimetres, of a synthetic hand (121 frames, three cameras); turning beside that of
the same computation on the true keypoints. Speed: frames a second of the tracker, one video after the other, decoding
included; milliseconds of inverse kinematics for a frame.
"""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from robot_bridge.arms.arm import make_arm
from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.hands import Floats, HandTrack
from robot_bridge.retarget.inverse import solve
from robot_bridge.retarget.lifting import HandPath, mono, stereo
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.pacing import arm_only
from robot_bridge.retarget.tool_path import ToolPath, ToolPathConfig, tool_path
from robot_bridge.retarget.tracker import TrackerConfig, track_video
from vla.bench import Row, parser, write_bench

SAMPLES = Path(__file__).resolve().parents[3] / "shared/samples"
REACH = np.array([0.5, 0.0, 0.0])
"""From the sample's frame to where the simulated arm reaches [m]."""


class Truth:
    """What the sample says of itself."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "gt.json").read_text())
        self.points = np.array([frame["K"] for frame in told["frames"]])
        self.pinch = np.array([frame["pinch"] for frame in told["frames"]])
        self.closed = np.array([frame["grip"] for frame in told["frames"]]) > 0.5
        self.stamps = np.array([frame["t"] for frame in told["frames"]])
        size = (told["W"], told["H"])
        self.cameras = {
            one["name"]: Camera.of_mujoco(np.array(one["pos"]), np.array(one["R"]), fovy=one["fovy"], size=size)
            for one in told["cams"]
            if (folder / f"{one['name']}.mp4").is_file()
        }


def judged(name: str, path: ToolPath, truth: Truth, config: ToolPathConfig) -> list[Row]:
    """Errors of one path."""
    known = path.known
    apart = 1e3 * np.linalg.norm(path.position - truth.pinch, axis=1)[known]
    exact = tool_path(HandPath(truth.stamps, truth.points, np.zeros(len(known)), "right", "stereo"), config)
    cosine = np.abs((path.quaternion * exact.quaternion).sum(1))[known]
    turned = np.degrees(2 * np.arccos(np.clip(cosine, 0, 1)))
    right = float((path.closed == truth.closed)[known].mean())
    return [
        Row(f"{name}: pinch point", float(np.median(apart)), "mm", p99=float(np.quantile(apart, 0.95))),
        Row(f"{name}: turning ({config.turning})", float(np.median(turned)), "°", p99=float(np.quantile(turned, 0.95))),
        Row(f"{name}: frames rightly open or closed", right, "share"),
    ]


def tracked(folder: Path, names: list[str], *, full: bool) -> tuple[dict[str, HandTrack], Row]:
    """The hand in each of the sample's films, and how quick that was."""
    began, frames, tracks = perf_counter(), 0, {}
    for name in names:
        tracks[name] = track_video(folder / f"{name}.mp4", TrackerConfig(full=full))
        frames += len(tracks[name].stamps)
    return tracks, Row(f"tracker, {'full' if full else 'lite'} model", frames / (perf_counter() - began), "frames/s")


def real(samples: Path) -> list[Row]:
    """Speed and share of frames with a hand of the films of real hands."""
    rows = []
    for video in sorted((samples / "human").glob("*.mp4")):
        began = perf_counter()
        track = track_video(video)
        spent = perf_counter() - began
        seen = float((track.seen("left") | track.seen("right")).mean())
        rows += [Row(f"{video.stem}: frames with a hand", seen, "share")]
        rows += [Row(f"{video.stem}: tracker, with start", len(track.stamps) / spent, "frames/s")]
    return rows


def moved(path: ToolPath, by: Floats) -> ToolPath:
    """The path elsewhere."""
    return replace(path, position=path.position + by)


def main(argv: list[str]) -> int:
    """``vla bench retarget``: a minute."""
    arguments = parser("retarget", __doc__)
    arguments.add_argument("--samples", type=Path, default=SAMPLES, help="folder with synthetic_hand and human")
    given = arguments.parse_args(argv)
    folder, config = given.samples / "synthetic_hand", ToolPathConfig(turning="palm")
    truth = Truth(folder)
    names = list(truth.cameras)
    tracks, row = tracked(folder, names, full=False)
    rows = [row, tracked(folder, names, full=True)[1], *real(given.samples)]
    for pair in combinations(names, 2):
        hand = stereo({name: tracks[name] for name in pair}, truth.cameras, "right")
        rows += judged(f"stereo, {' and '.join(pair)}", tool_path(hand, config), truth, config)
    for name in names:
        hand = mono(tracks[name], truth.cameras[name], "right")
        rows += judged(f"mono, {name}", tool_path(hand, config), truth, config)
    path = tool_path(stereo({name: tracks[name] for name in names[:2]}, truth.cameras, "right"))
    arm = make_arm("sim")
    linkage = linkage_of(arm)
    began = process_time()
    solved = solve(linkage, moved(path, REACH), arm_only(arm.spec))
    spent_ms = 1e3 * (process_time() - began)
    rows.append(Row("inverse kinematics, a step", spent_ms / solved.steps, "ms"))
    rows.append(Row("inverse kinematics, a frame of the video", spent_ms / len(path.stamps), "ms"))
    rows.append(Row("inverse kinematics, off the path", 1e3 * float(solved.position_m.max()), "mm"))
    note = "p99 stands for the 95th percentile of errors; of a synthetic hand, but for the films of real hands"
    write_bench("retarget", rows, {}, given.json, notes=(note,))
    return 0
