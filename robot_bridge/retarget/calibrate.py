"""``vla calibrate``: a board to print, a camera's lens, its place, and a camera on the arm.

What is measured is put among the cameras of one file, with a picture of what is left and a verdict in one line.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np

from robot_bridge.retarget.boards import (
    KINDS,
    LENGTHS,
    Floats,
    Picture,
    Sighting,
    grey,
    load_board,
    read_pictures,
    write_board,
)
from robot_bridge.retarget.calibration import (
    FAIR_PX,
    GOOD_PX,
    Placed,
    View,
    Where,
    hand_eye,
    intrinsics,
    place,
    place_by_board,
    place_by_tags,
    sized,
)
from robot_bridge.retarget.cameras import Camera, camera_of, load_cameras, save_cameras
from vla.errors import UnderstudyError, unknown

GOOD_MM, FAIR_MM = 3.0, 10.0
FARTHEST_M = 5.0
SHADES, POOR = ((GOOD_PX, (0, 128, 93)), (FAIR_PX, (230, 159, 0))), (194, 78, 0)

EXAMPLES = """\
examples:
  vla calibrate board --out board.png
  vla calibrate camera --name front --board board.json shots/
  vla calibrate fixed --name front --board board.json --at 0.40 0 0 table.jpg
  vla calibrate hand-eye --name front --board tag.json --poses poses.csv --where eye-to-hand reach/
"""
BOARD = """\
examples:
  vla calibrate board --out board.png
  vla calibrate board --kind tags --tag 80 --first 7 --out tag.png
"""
CAMERA = """\
example:
  vla calibrate camera --name front --board board.json shots/

15 pictures and more, the board near, tilted to all sides, and in all corners of the picture.
"""
POSES = """\
poses of the gripper in the frame of the arm's base, by the picture's file name, metres, quaternions (w, x, y, z):
  poses.csv    picture,x,y,z,qw,qx,qy,qz
               000.png,0.41,-0.02,0.30,0.0,1.0,0.0,0.0
  poses.json   {"000.png": {"position": [0.41, -0.02, 0.30], "quaternion": [0, 1, 0, 0]}, …}
               {"000.png": [[1, 0, 0, 0.41], [0, -1, 0, -0.02], [0, 0, -1, 0.30], [0, 0, 0, 1]], …}
"""
FIXED = f"""\
examples:
  vla calibrate fixed --name front --board board.json --at 0.40 0 0 table.jpg
  vla calibrate fixed --name front --tag 0=0.3,-0.2,0 --tag 1=0.3,0.2,0 --tag 2=0.5,-0.2,0 --tag 3=0.5,0.2,0 table.jpg
  vla calibrate fixed --name front --board tag.json --poses poses.csv --on-gripper 0 0 0.05 reach/

A board's frame has its origin in the middle of the pattern, x to the right of the print, y up, z out of the paper. Flat
on the table, with its x along the base's, it is not turned; else say by how much with --turned.

{POSES}"""
HAND_EYE = f"""\
examples:
  vla calibrate hand-eye --name wrist --board board.json --poses poses.csv --where eye-in-hand reach/
  vla calibrate hand-eye --name front --board tag.json --poses poses.json --where eye-to-hand reach/

15 poses and more, the gripper turned by 20° and more about two axes.

{POSES}"""


def main(argv: list[str]) -> int:
    """``vla calibrate``."""
    given = _arguments().parse_args(argv)
    for line in given.run(given):
        sys.stdout.write(f"{line}\n")
    return 0


def _board(given: argparse.Namespace) -> list[str]:
    wanted = {one.name for one in fields(KINDS[given.kind])}
    asked = {name: value for name, value in vars(given).items() if name in wanted and value is not None}
    board = KINDS[given.kind](**{name: value / 1e3 if name in LENGTHS else value for name, value in asked.items()})
    width_mm, height_mm = write_board(board, given.out)
    size = f"{width_mm:g} x {height_mm:g} mm with its margin"
    advice = f"print it at 100 %, {size}, glue it on something flat and stiff, and measure its ruler: if that is off,"
    return [f"{given.out}: {board.about}", f"{advice} correct {given.out.with_suffix('.json')} by the same share"]


def _camera(given: argparse.Namespace) -> list[str]:
    pictures = read_pictures(given.pictures)
    lens = intrinsics(list(pictures.values()), load_board(given.board), wide=given.wide)
    names = list(pictures)
    shown = _kept(given, "lens", lens.camera, lens.views, pictures)
    told = [f"left out, as they do not fit: {', '.join(names[number] for number in lens.left_out)}"]
    residual = lens.camera.residual_px or 0.0
    focal = " ".join(f"{value:.1f}" for value in lens.camera.matrix[[0, 1], [0, 1]])
    head = f"{given.name}: lens {residual:.2f} px over {len(lens.views)} pictures, focal lengths {focal} px: "
    return [head + _good(residual, GOOD_PX, FAIR_PX, "px"), *(told if lens.left_out else []), *lens.warnings, shown]


def _fixed(given: argparse.Namespace) -> list[str]:
    pictures, camera = read_pictures(given.pictures), camera_of(load_cameras(given.cameras), given.name)
    placed = _placed(given, camera, pictures)
    shown = _kept(given, "place", placed.camera, placed.views, pictures)
    residual, where = placed.camera.residual_px or 0.0, placed.camera.base_from_camera[:3, 3]
    head = f"{given.name}: place {residual:.2f} px, at {where.round(3).tolist()} m to {placed.sigma_mm:.1f} mm: "
    return [head + _good(residual, GOOD_PX, FAIR_PX, "px"), *placed.warnings, shown]


def _placed(given: argparse.Namespace, camera: Camera, pictures: Mapping[str, Picture]) -> Placed:
    shots = list(pictures.values())
    ways = [bool(given.tag), bool(given.point), given.at is not None, given.on_gripper is not None]
    if sum(ways) != 1:
        raise UnderstudyError("a camera is placed by one of --at, --on-gripper, --tag and --point; see --help")
    if given.tag:
        return place_by_tags(camera, shots, {int(tag): at for (tag,), at in (_known(text, 1) for text in given.tag)})
    if given.point:
        if len(shots) != 1:
            raise UnderstudyError(f"--point is of one picture, got {len(shots)}")
        pixels, points = zip(*(_known(text, 2) for text in given.point), strict=True)
        return place(sized(camera, shots), {0: Sighting(np.array(points), np.array(pixels))})
    if given.board is None:
        raise UnderstudyError("--at and --on-gripper are of a --board; print one: vla calibrate board --help")
    board = load_board(given.board)
    if given.at is not None:
        return place_by_board(camera, shots, board, pose_of(given.at, given.turned))
    if given.poses is None:
        raise UnderstudyError("--on-gripper needs --poses: where the gripper was in each picture")
    poses = matched(read_poses(given.poses), pictures)
    return place_by_board(camera, shots, board, [pose @ pose_of(given.on_gripper, given.turned) for pose in poses])


def _hand_eye(given: argparse.Namespace) -> list[str]:
    pictures, camera = read_pictures(given.pictures), camera_of(load_cameras(given.cameras), given.name)
    poses = matched(read_poses(given.poses), pictures)
    eye = hand_eye(camera, list(pictures.values()), load_board(given.board), poses, given.where)
    px = float(np.sqrt(np.mean([view.residual_px**2 for view in eye.views])))
    frame = "base" if given.where == "eye-to-hand" else "gripper"
    mount = {
        f"{frame}_from_camera": eye.mount.tolist(),
        f"{'gripper' if frame == 'base' else 'base'}_from_board": eye.board.tolist(),
        "method": eye.method,
        "residual_mm": eye.residual_mm,
        "residual_degrees": eye.residual_deg,
        "residual_px": px,
        "residual_mm_by_method": dict(eye.by_method),
    }
    file = given.cameras.with_name(f"{given.name}-hand-eye.json")
    _written(file, (json.dumps(mount, indent=2) + "\n").encode())
    placed = eye.mount if frame == "base" else None
    if placed is None and given.parked is not None:
        placed = pose_of(given.parked, given.turned) @ eye.mount
    if placed is not None:
        camera = replace(sized(camera, list(pictures.values())), base_from_camera=placed, residual_px=px)
    shown = _kept(given, "hand-eye", None if placed is None else camera, eye.views, pictures)
    head = (
        f"{given.name}: hand-eye {eye.residual_mm:.1f} mm and {eye.residual_deg:.2f}° over {len(eye.views)} poses, "
        f"{px:.1f} px ({eye.method}): "
    )
    return [head + _good(eye.residual_mm, GOOD_MM, FAIR_MM, "mm"), *eye.warnings, f"{file}; {shown}"]


def _good(value: float, good: float, fair: float, unit: str) -> str:
    if value < good:
        return f"good (below {good:g} {unit})"
    return f"fair (below {good:g} {unit} would be good)" if value < fair else f"poor (below {good:g} {unit} is good)"


def _kept(
    given: argparse.Namespace, what: str, camera: Camera | None, views: Sequence[View], pictures: Mapping[str, Picture]
) -> str:
    """Write the camera among those that are there, and the picture of what is left; what was written, in words."""
    shown = max(views, key=lambda view: view.residual_px)
    file = given.cameras.with_name(f"{given.name}-{what}.png")
    coded = cv2.imencode(".png", overlay(list(pictures.values())[shown.picture], views, shown)[..., ::-1])[1]
    _written(file, coded.tobytes())
    if camera is None:
        return f"the residuals are in {file}"
    known = load_cameras(given.cameras) if given.cameras.exists() else {}
    save_cameras(given.cameras, {**known, given.name: camera})
    return f"{given.cameras}; the residuals are in {file}"


def _written(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise UnderstudyError(f"{file} cannot be written: {error.strerror}") from error


def read_poses(file: Path) -> dict[str, Floats]:
    """Poses [4, 4] by the picture's name, of a csv or json (see ``vla calibrate hand-eye --help``)."""
    if not file.is_file():
        raise UnderstudyError(f"there are no poses {file}")
    try:
        if file.suffix.lower() == ".csv":
            rows = csv.DictReader(io.StringIO(file.read_text("utf-8-sig")), strict=True)
            poses = {row["picture"].strip(): _row(row) for row in rows}
        else:
            poses = {name: _entry(held) for name, held in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UnderstudyError(f"{file} holds no poses ({error}); vla calibrate hand-eye --help shows how") from error
    for name, pose in poses.items():
        if not np.abs(pose[:3, 3]).max() < FARTHEST_M:
            raise UnderstudyError(f"{file}: {name} is at {pose[:3, 3].tolist()} m; is that in millimetres?")
    return poses


def _row(row: Mapping[str, str]) -> Floats:
    return _posed(*([float(row[name]) for name in names] for names in (("x", "y", "z"), ("qw", "qx", "qy", "qz"))))


def _entry(held: object) -> Floats:
    if isinstance(held, Mapping):
        return _posed(held["position"], held["quaternion"])
    return np.array(held, np.float64).reshape(4, 4)


def _posed(position: Sequence[float], quaternion: Sequence[float]) -> Floats:
    w, *axis = np.array(quaternion, np.float64).reshape(4)
    if abs(np.linalg.norm(quaternion) - 1) > 0.01:
        raise ValueError(f"a quaternion (w, x, y, z) has length 1, got {list(quaternion)}")
    length = float(np.linalg.norm(axis))
    vector = np.array(axis) * (2 * np.arctan2(length, w) / length if length > 1e-12 else 0.0)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(vector)[0], position
    return pose


def matched(poses: Mapping[str, Floats], pictures: Mapping[str, Picture]) -> list[Floats]:
    """The pose [4, 4] of each picture; raises `UnderstudyError` for a picture without one."""
    for name in pictures:
        if name not in poses:
            raise unknown("picture among the poses", name, poses)
    return [poses[name] for name in pictures]


def pose_of(position: Sequence[float], turned: Sequence[float] = ()) -> Floats:
    """[4, 4] of x y z [m], and turns [degrees] about the fixed x, then y, then z."""
    pose = np.eye(4)
    pose[:3, 3] = position
    for axis, degrees in zip(np.eye(3), turned, strict=False):
        pose[:3, :3] = cv2.Rodrigues(np.radians(degrees) * axis)[0] @ pose[:3, :3]
    return pose


def _known(text: str, count: int) -> tuple[list[float], list[float]]:
    """What is at a place, in ``count`` numbers, and the place [3] m."""
    what, _, where = text.partition("=")
    try:
        found = [[float(one) for one in part.split(",")] for part in (what, where)]
    except ValueError:
        found = [[], []]
    if [len(part) for part in found] != [count, 3]:
        raise UnderstudyError(f"{text!r} is not written ID=X,Y,Z or U,V=X,Y,Z: a tag or a pixel, and metres")
    return found[0], found[1]


def overlay(picture: Picture, views: Sequence[View], shown: View) -> Picture:
    """A picture to judge by [H, W, 3] RGB: ``shown`` of ``views`` in it, and below, how good each of them is.

    Circles: seen. Crosses: expected. Lines: from seen to expected, enlarged; thin ones are the other views'.
    """
    zoom = max(1, round(960 / picture.shape[1]))
    size = picture.shape[1] * zoom, picture.shape[0] * zoom
    larger = cv2.resize(grey(picture) // 2 + 64, size, interpolation=cv2.INTER_NEAREST)
    sheet = np.asarray(cv2.cvtColor(larger, cv2.COLOR_GRAY2RGB), np.uint8)
    worst = max(view.residual_px for view in views)
    longer = next((times for times in (100, 50, 20, 10, 5) if times * worst <= 40), 2)
    for view in [*views, shown]:
        color, thick = ((230, 60, 30), 2) if view is shown else ((90, 120, 200), 1)
        for pixel, expected in zip(view.pixels, view.expected, strict=True):
            start, end = (_place(point, zoom) for point in (pixel, pixel + longer * (expected - pixel)))
            cv2.line(sheet, start, end, color, thick, cv2.LINE_AA, 4)
            if view is shown:
                cv2.circle(sheet, start, 16 * 6, (20, 160, 60), 1, cv2.LINE_AA, 4)
                cv2.drawMarker(sheet, [round(c / 16) for c in _place(expected, zoom)], color, cv2.MARKER_CROSS, 7)
    told = f"picture {shown.picture}: {shown.residual_px:.2f} px rms; lines x{longer}"
    cv2.putText(sheet, told, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([sheet, _bars(views, shown, sheet.shape[1])])


def _place(pixel: Floats, zoom: int) -> tuple[int, int]:
    """In sixteenths of a pixel of the enlarged picture, kept to what OpenCV draws."""
    x, y = np.clip(((pixel + 0.5) * zoom - 0.5) * 16, -1e6, 1e6).round().astype(int).tolist()
    return x, y


def _bars(views: Sequence[View], shown: View, width: int) -> Picture:
    """One bar for each view [140, ``width``, 3], and lines at the bounds of good and fair."""
    panel = np.full((140, width, 3), 255, np.uint8)
    top = max(1.2 * FAIR_PX, *(1.1 * view.residual_px for view in views))
    pitch = (width - 60) / len(views)
    for number, view in enumerate(views):
        left, right = (round(50 + pitch * (number + share)) for share in (0.1, 0.9))
        high = 115 - round(105 * view.residual_px / top)
        color = next((shade for bound, shade in SHADES if view.residual_px < bound), POOR)
        cv2.rectangle(panel, (left, high), (right, 115), color, -1)
        if view is shown or pitch > 30:
            cv2.putText(panel, str(view.picture), (left, 132), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    for bound in (GOOD_PX, FAIR_PX):
        high = 115 - round(105 * bound / top)
        cv2.line(panel, (46, high), (width - 10, high), (120, 120, 120), 1)
        cv2.putText(panel, f"{bound} px", (2, high + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return panel


def _arguments() -> argparse.ArgumentParser:
    about = "Measure cameras, for what they see to have a place."
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("vla calibrate", description=about, epilog=EXAMPLES, formatter_class=raw)
    kinds = parser.add_subparsers(metavar="WHAT", required=True)

    add = _part(kinds, "board", "write a board to print", _board, BOARD)
    add("--out", type=Path, required=True, help="the .png; a .json that describes the board is written beside it")
    add("--kind", choices=list(KINDS), default="charuco", help="charuco for lenses, tags for places (%(default)s)")
    add("--columns", type=int, help="7 squares, or 1 tag")
    add("--rows", type=int, help="5 squares, or 1 tag")
    add("--square", type=float, metavar="MM", help="of the chessboard (30)")
    add("--marker", type=float, metavar="MM", help="in its white squares (22)")
    add("--dictionary", help="of its markers (4x4_50)")
    add("--tag", type=float, metavar="MM", help="the black square of a tag (60)")
    add("--gap", type=float, metavar="MM", help="between two tags (15)")
    add("--first", type=int, help="id of the first tag (0)")

    add = _part(kinds, "camera", "measure a lens by pictures or a video of a board", _camera, CAMERA)
    _common(add, boarded=True)
    add("--wide", action="store_true", help="a lens of more than 90°: fit k3 as well")

    add = _part(kinds, "fixed", "tell where a camera stands", _fixed, FIXED)
    _common(add, boarded=False)
    add("--at", type=float, nargs=3, metavar="M", help="where a board lies in the base's frame")
    add("--on-gripper", type=float, nargs=3, metavar="M", help="where the gripper carries a board, in its own frame")
    add("--turned", type=float, nargs=3, metavar="DEG", default=[], help="the board, about the fixed x, then y, then z")
    add("--tag", action="append", default=[], metavar="ID=X,Y,Z", help="where the middle of a tag is [m]; four or more")
    add("--point", action="append", default=[], metavar="U,V=X,Y,Z", help="a pixel, and where it is [m]; four or more")
    add("--poses", type=Path, help="of the gripper in each picture, for --on-gripper")

    add = _part(kinds, "hand-eye", "tell where a camera is on the arm, or one that looks at it", _hand_eye, HAND_EYE)
    _common(add, boarded=True)
    add("--poses", type=Path, required=True, help="of the gripper in each picture")
    add("--where", choices=get_args(Where), required=True, help="the camera on the gripper, or the board on it")
    add("--parked", type=float, nargs=3, metavar="M", help="where the gripper is when its camera films people")
    add("--turned", type=float, nargs=3, metavar="DEG", default=[], help="it then, about the fixed x, then y, then z")
    return parser


def _part(kinds: Any, name: str, about: str, run: Callable[[argparse.Namespace], list[str]], epilog: str) -> Any:
    raw = argparse.RawDescriptionHelpFormatter
    part = kinds.add_parser(name, help=about, description=f"{about.capitalize()}.", epilog=epilog, formatter_class=raw)
    part.set_defaults(run=run)
    return part.add_argument


def _common(add: Any, *, boarded: bool) -> None:
    add("pictures", type=Path, nargs="+", help="pictures, folders of pictures, or videos")
    add("--name", required=True, help="of the camera")
    add("--board", type=Path, required=boarded, help="the .json beside the printed board")
    add("--cameras", type=Path, default=Path("cameras.json"), help="file of cameras (%(default)s)")
