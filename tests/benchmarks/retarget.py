"""How quick and how exact the way from a hand's video to an arm is, on a rendered hand whose truth is known.

Errors are of the pinch point, in millimetres, of a synthetic hand (121 frames, three cameras); turning beside that of
the same computation on the true keypoints. Speed: frames a second of the tracker, one video after the other, decoding
included; milliseconds of inverse kinematics for a frame.
"""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import cv2
import numpy as np

from robot_bridge.arms.arm import make_arm
from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.grasps import events
from robot_bridge.retarget.hands import Floats, HandTrack
from robot_bridge.retarget.inverse import solve
from robot_bridge.retarget.keyframes import KeyframesConfig, keyframes
from robot_bridge.retarget.lifting import HandPath, mono, stereo
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.pacing import arm_only
from robot_bridge.retarget.tool_path import ToolPath, ToolPathConfig, tool_path
from robot_bridge.retarget.tracker import TrackerConfig, track_video
from vla.bench import Row, parser, write_bench
from vla.data.video import every_frame, write_mp4

SAMPLES = Path(__file__).resolve().parents[3] / "shared/samples"
FPS = 15.0
"""Of the long clips."""
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
        *(Row(f"{name}: {what}, late by", late, "frames") for what, late in late_by(path, truth).items()),
    ]


def late_by(path: ToolPath, truth: Truth) -> dict[str, float]:
    """How many frames later than in truth something is taken and let go; nothing where no grasp is seen."""
    found, ((first, after),) = events(path.closed), events(truth.closed)
    return {"grasp": found[0][0] - first, "letting go": found[0][1] - after} if found else {}


def touches(name: str, path: ToolPath, truth: Truth) -> list[Row]:
    """How far off the tool is where something is taken and let go: all that the lift plane knows."""
    found, ((first, after),) = events(path.closed), events(truth.closed)
    if not found:
        return [Row(f"{name}: grasps that are seen", 0, "grasps")]
    ends = {"grasp": (found[0][0], first), "letting go": (found[0][1] - 1, after - 1)}
    places = {what: np.linalg.norm(path.position[a] - truth.pinch[b]) for what, (a, b) in ends.items()}
    return [
        *(Row(f"{name}: place of the {what}", 1e3 * float(off), "mm") for what, off in places.items()),
        *(Row(f"{name}: {what}, late by", late, "frames") for what, late in late_by(path, truth).items()),
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


LONG_MIN = (1, 10)
TRACKING = """
import re, sys, threading, time
from pathlib import Path
from robot_bridge.retarget.tracker import track_video

def most(process):  # what getrusage says of it, a process has from the one that began it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{process}/status").read_text())[1])

def watch():
    while True:
        for child in Path("/proc/thread-self/../..").glob("task/*/children"):
            for process in child.read_text().split():
                there[process] = most(process)
        time.sleep(0.2)

there = {}
threading.Thread(target=watch, daemon=True).start()
print(len(track_video(Path(sys.argv[1])).stamps), most("self"), max(there.values()))
"""


def long(samples: Path) -> list[Row]:
    """The most memory used while clips of a minute and of ten are tracked, here and in the tracker's process."""
    pictures = [frame for _, frame in every_frame(next(iter(sorted((samples / "human").glob("*.mp4")))))]
    pictures = [cv2.resize(frame, (320, 240), interpolation=cv2.INTER_AREA) for frame in pictures[:300]]
    rows = []
    with TemporaryDirectory() as folder:
        for minutes in LONG_MIN:
            video, count = Path(folder) / f"{minutes}.mp4", round(60 * minutes * FPS)
            write_mp4(video, ((n / FPS, pictures[n % len(pictures)]) for n in range(count)), fps=FPS)
            run = subprocess.run([sys.executable, "-c", TRACKING, video], capture_output=True, text=True, check=True)
            frames, here, there = (int(word) for word in run.stdout.split())
            assert frames == count
            for who, kibibytes in (("program", here), ("tracker", there)):
                rows.append(Row(f"a clip of {minutes} min: memory of the {who}", kibibytes / 1024, "MiB"))
    return rows


def moved(path: ToolPath, by: Floats) -> ToolPath:
    """The path elsewhere."""
    return replace(path, position=path.position + by)


def main(argv: list[str]) -> int:
    """``vla bench retarget``: a minute; with ``--long`` also the memory of long clips, five minutes."""
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
        table = KeyframesConfig(held_m=float(truth.pinch[truth.closed][0, 2]))
        rows += touches(f"plane, {name}", keyframes(tracks[name], truth.cameras[name], "right", table), truth)
    path = tool_path(stereo({name: tracks[name] for name in names[:2]}, truth.cameras, "right"))
    arm = make_arm("sim")
    linkage = linkage_of(arm)
    began = process_time()
    solved = solve(linkage, moved(path, REACH), arm_only(arm.spec))
    spent_ms = 1e3 * (process_time() - began)
    rows.append(Row("inverse kinematics, a step", spent_ms / solved.steps, "ms"))
    rows.append(Row("inverse kinematics, a frame of the video", spent_ms / len(path.stamps), "ms"))
    rows.append(Row("inverse kinematics, off the path", 1e3 * float(solved.position_m.max()), "mm"))
    rows += long(given.samples) if given.long else []
    note = "p99 stands for the 95th percentile of errors; of a synthetic hand, but for the films of real hands"
    write_bench("retarget", rows, {}, given.json, notes=(note,))
    return 0
