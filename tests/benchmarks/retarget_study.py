"""Does an arm that was shown a film do what the hand in it did? Fresh films, each lift, and the arm's physics.

A film (`sim.human_pick`) shows a hand that takes a cube from one place of a table and puts it at another; hand, cube,
turning, person, light and the cameras' pictures are drawn with the film's number. The simulated arm is given what was
made of it and nothing else, and the cube lies where the film has it in the beginning. Done: the cube was lifted and
rests within 4 cm of where the film has it in the end. Of the ``truth`` the place of the fingers is known (what is left
is the arm's); ``mono`` is what a single camera without a table gives, which `vla drive` refuses.

Errors are of the pinch point and of the gripper's turning, by the truth of each frame; the times of grasping and
letting go in frames of 1/15 s, from those in which the cube began and ended to be held.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.study import RESULTS, markdown

from policies.provenance import code_version
from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.grasps import events
from robot_bridge.retarget.hands import HandTrack
from robot_bridge.retarget.inverse import solve
from robot_bridge.retarget.keyframes import keyframes
from robot_bridge.retarget.lifting import HandPath, mono, rgbd, stereo
from robot_bridge.retarget.linkage import Linkage
from robot_bridge.retarget.pacing import arm_only, paced
from robot_bridge.retarget.tool_path import ToolPath, tool_path
from robot_bridge.retarget.tracker import track_frames
from sim.follow import follow
from sim.human_pick import PickFilm, PickTruth, pick_film
from sim.intervals import wilson
from sim.scenes import SPEC, TABLETOP, Setting
from sim.tasks.tabletop_film import NEAR_M, task_of
from sim.world import ArmPhysics
from vla.bench import Row, parser, write_bench
from vla.errors import UnderstudyError

HZ = 50.0
NOISE = 0.002
"""Standard deviation of the depth [m] at 1 m, as a close camera's by structured light."""
VIEWS = ("front", "side", "quarter")
DEEP = "side"
LIFTS = {
    "truth": "where the fingers really are",
    "stereo": "two cameras, front and side",
    "rgbd": f"one camera with depth ({NOISE * 1e3:g} mm of noise at 1 m), side",
    "plane": "one camera and the table, quarter",
    "mono": "one camera, the hand's size guessed, side",
}


def paths_of(
    tracks: Mapping[str, HandTrack], cameras: Mapping[str, Camera], deep: HandPath | None, truth: PickTruth
) -> dict[str, ToolPath | str]:
    """The tool's path by each lift, or why there is none."""
    exact = HandPath(truth.stamps, truth.keypoints, np.zeros(len(truth.stamps)), "right", "stereo")
    makers = {
        "truth": lambda: _known(tool_path(exact), truth),
        "stereo": lambda: tool_path(stereo({name: tracks[name] for name in ("front", "side")}, cameras)),
        "rgbd": lambda: tool_path(deep),
        "plane": lambda: keyframes(tracks["quarter"], cameras["quarter"]),
        "mono": lambda: tool_path(mono(tracks["side"], cameras["side"])),
    }
    found: dict[str, ToolPath | str] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except UnderstudyError as error:
            found[name] = str(error)
    return found


def _known(path: ToolPath, truth: PickTruth) -> ToolPath:
    """With the true place of the pinch, and what is true of the grasp."""
    return ToolPath(**{**vars(path), "position": truth.pinch, "closed": truth.grasped})


def errors_of(path: ToolPath, exact: ToolPath, truth: PickTruth) -> dict[str, Any]:
    """Of a path beside the truth: mm, degrees, frames."""
    known = path.known
    apart = 1e3 * np.linalg.norm(path.position - truth.pinch, axis=1)[known]
    cosine = np.abs((path.quaternion * exact.quaternion).sum(1))[known]
    turned = np.degrees(2 * np.arccos(np.clip(cosine, 0, 1)))
    turned = np.minimum(turned, 180 - turned)  # a gripper turned by half a turn is the same gripper
    grasps, ((first, after),) = events(path.closed), events(truth.grasped)
    near = min(grasps, key=lambda one: abs(one[0] - first), default=None)
    return {
        "mm": apart.tolist(),
        "degrees": turned.tolist(),
        "right": float((path.closed == truth.grasped)[known].mean()),
        "grasps": len(grasps),
        "early": None if near is None else [near[0] - first, near[1] - after],
    }


def played(path: ToolPath, linkage: Linkage, seed: int) -> dict[str, Any]:
    """What the simulated arm does with a path, under the bridge's governor, in the scene of that film."""
    solved = solve(linkage, path, arm_only(SPEC))
    try:
        joints = paced(path, solved, SPEC, rate_hz=HZ)
    except UnderstudyError as error:
        return {"done": False, "off_m": None, "why": str(error)}
    physics = ArmPhysics(task_of(seed, "right"), seed)
    follow(physics, joints.joints, HZ)
    film = physics.scene.film
    assert film is not None
    done = film.success and film.off_m < NEAR_M  # and it stayed there
    return {"done": done, "off_m": film.off_m, "inverse_mm": 1e3 * float(np.nanmax(solved.position_m))}


def measured(
    tracks: Mapping[str, HandTrack], cameras: Mapping[str, Camera], deep: HandPath | None, truth: PickTruth, seed: int
) -> dict[str, Any]:
    """Errors and outcome of each lift of one film."""
    linkage, paths = Setting.of(TABLETOP).linkage(), paths_of(tracks, cameras, deep, truth)
    exact = paths["truth"]
    assert isinstance(exact, ToolPath)
    return {
        name: {"done": False, "off_m": None, "why": path}
        if isinstance(path, str)
        else {**errors_of(path, exact, truth), **played(path, linkage, seed)}
        for name, path in paths.items()
    }


def seen(film: PickFilm, folder: Path) -> tuple[dict[str, HandTrack], HandPath | None]:
    """Its hand in each view, and the lift by depth, from ``folder`` if it has been drawn and tracked before."""
    tracks, deep = {name: folder / f"{name}.npz" for name in VIEWS}, folder / "depth.npz"
    if not deep.is_file():
        _draw(film, tracks, deep)
    with np.load(deep, allow_pickle=False) as held:
        points, error = np.array(held["points"]), np.array(held["error_px"])
    lifted = HandPath(film.truth.stamps, points, error, film.side, "rgbd") if len(points) else None
    return {name: HandTrack.load(file) for name, file in tracks.items()}, lifted


def _draw(film: PickFilm, tracks: Mapping[str, Path], deep: Path) -> None:
    colors, depths = {name: [] for name in VIEWS}, []
    for frame in film.frames(depth=[DEEP], noise=NOISE):
        for name in VIEWS:
            colors[name].append(frame.color[name])
        depths.append(frame.depth[DEEP])
    for name, file in tracks.items():
        track_frames(list(zip(film.truth.stamps, colors[name], strict=True))).save(file)
    try:
        lifted = rgbd(HandTrack.load(tracks[DEEP]), film.cameras[DEEP], depths)
        points, error = lifted.points, lifted.error_px
    except UnderstudyError:
        points = error = np.empty(0)
    np.savez_compressed(deep, points=points, error_px=error)


def main(argv: list[str]) -> int:
    """``vla bench retarget_study``: a minute a film."""
    arguments = parser("retarget_study", __doc__)
    arguments.add_argument("--films", type=int, default=20, help="how many")
    arguments.add_argument("--first", type=int, default=0, help="number of the first one")
    arguments.add_argument("--work", type=Path, default=Path("outputs/retarget-study"), help="where tracks are kept")
    given = arguments.parse_args(argv)
    films = {}
    for seed in range(given.first, given.first + given.films):
        film = pick_film(seed, cameras=VIEWS)
        tracks, deep = seen(film, given.work / str(seed))
        films[str(seed)] = one = measured(tracks, film.cameras, deep, film.truth, seed)
        sys.stdout.write(f"film {seed}: {', '.join(lift for lift in LIFTS if one[lift]['done'])}\n")
        sys.stdout.flush()
    file = RESULTS / "retarget-films.json"
    file.write_text(json.dumps({"code": code_version(), "films": rounded(films)}) + "\n")
    sys.stdout.write(table(list(films.values())))
    rows = [Row(lift, float(np.mean([film[lift]["done"] for film in films.values()])), "success") for lift in LIFTS]
    write_bench("retarget_study", rows, {}, given.json, notes=("of films with a synthetic hand",))
    return 0


def rounded(found: Any) -> Any:
    """Floats to three digits after the point."""
    if isinstance(found, float):
        return round(found, 3)
    if isinstance(found, Mapping):
        return {name: rounded(one) for name, one in found.items()}
    return [rounded(one) for one in found] if isinstance(found, list) else found


def table(films: list[dict[str, Any]]) -> str:
    """A line a lift."""
    head = ["", "done (95 %)", "off the goal", "place, median and 95 %", "turning", "frames right", "grasps, lets go"]
    lines = []
    for lift, says in LIFTS.items():
        each = [film[lift] for film in films]
        done, lifted = sum(one["done"] for one in each), [one for one in each if "mm" in one]
        low, high = wilson(done, len(each))
        off = [1e3 * one["off_m"] for one in each if one["done"]]
        apart, turned = (np.concatenate([one[name] for one in lifted] or [[np.nan]]) for name in ("mm", "degrees"))
        early = np.abs([one["early"] for one in lifted if one["early"]] or [[np.nan, np.nan]])
        lines.append(
            [
                f"**{lift}**: {says}",
                f"{done}/{len(each)} ({low:.2f} – {high:.2f})",
                f"{np.median(off):.0f} mm" if off else "–",
                f"{np.median(apart):.1f}, {np.quantile(apart, 0.95):.0f} mm",
                f"{np.median(turned):.1f}°, {np.quantile(turned, 0.95):.0f}°",
                f"{np.mean([one['right'] for one in lifted]):.2f}" if lifted else "–",
                f"± {np.median(early[:, 0]):.0f}, ± {np.median(early[:, 1]):.0f} frames",
            ]
        )
    return markdown(head, lines)
