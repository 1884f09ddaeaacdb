"""What a camera is like, and where it stands: measured with boards, and how well.

    lens = intrinsics(pictures, board)                          # K and distortion
    placed = place_by_board(lens.camera, pictures, board, base_from_board)     # one pose, or one for each picture
    placed = place_by_tags(lens.camera, pictures, {0: (0.3, -0.1, 0.0), …})    # middles of four tags or more
    eye = hand_eye(lens.camera, pictures, board, base_from_gripper, "eye-to-hand")

Each has views, which say how far what was seen lies from where it should be [px]. What is too little to measure by is
refused with `UnderstudyError`; what is only poor is told in ``warnings``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike

from robot_bridge.retarget.boards import Board, Floats, Picture, Sighting, find_tags
from robot_bridge.retarget.cameras import Camera, inverted
from vla.errors import UnderstudyError

Where = Literal["eye-in-hand", "eye-to-hand"]
GOOD_PX, FAIR_PX = 0.5, 1.0
MOST_PX = 3.0
"""A residual [px] above which something is another than was said: the board, its size, a place, or the lens."""
LEAST_PICTURES, WANTED_PICTURES = 6, 15
LEAST_TILT = 20.0
"""Degrees that two pictures' boards must at least be tilted against each other: else focal length is distance."""
FOCAL_SHARE = 0.01
LEAST_POSES = 3
LEAST_TURN = 5.0
"""Degrees that the gripper must turn about its second axis (rms over pairs of poses)."""
MOVED_MM, UNSURE_MM = 5.0, 10.0
METHODS = {
    "park": cv2.CALIB_HAND_EYE_PARK,
    "horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "tsai": cv2.CALIB_HAND_EYE_TSAI,
    "andreff": cv2.CALIB_HAND_EYE_ANDREFF,
    "daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}


@dataclass(frozen=True)
class View:
    """One picture, by its place among those given: ``pixels`` [N, 2] where corners were seen, ``expected`` [N, 2]."""

    picture: int
    pixels: Floats
    expected: Floats

    @property
    def residual_px(self) -> float:
        """Rms distance of the two."""
        return rms(self.pixels - self.expected)


@dataclass(frozen=True)
class Lens:
    """A camera whose place is not known yet, the views that count, and those left out because they do not fit."""

    camera: Camera
    views: tuple[View, ...]
    left_out: tuple[int, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A camera with its place; ``sigma_mm``: how well the pixels tell where it is (one standard deviation)."""

    camera: Camera
    views: tuple[View, ...]
    sigma_mm: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class HandEye:
    """``mount`` [4, 4]: gripper_from_camera of an eye in hand, base_from_camera of one that looks at the hand.

    ``board`` [4, 4]: where the board then is, base_from_board or gripper_from_board. ``residual_mm`` and
    ``residual_deg``: rms of its poses, as the views tell them one by one, about that one; ``by_method``: in mm.
    """

    mount: Floats
    board: Floats
    method: str
    residual_mm: float
    residual_deg: float
    by_method: Mapping[str, float]
    warnings: tuple[str, ...]
    views: tuple[View, ...] = ()


class _Fit(NamedTuple):
    """``tilt``: the largest between two boards [degrees]; ``unsure``: the focal length's deviation, a share of it."""

    camera: Camera
    views: tuple[View, ...]
    tilt: float
    unsure: float


def intrinsics(pictures: Sequence[Picture], board: Board, *, wide: bool = False) -> Lens:
    """K and distortion from six pictures of a board or more, tilted this way and that.

    ``wide``: fit k3 as well, for lenses of more than 90°.
    """
    size = _size(pictures)
    seen = {number: found for number, picture in enumerate(pictures) if (found := board.find(picture)) is not None}
    if len(seen) < LEAST_PICTURES:
        raise UnderstudyError(
            f"{board.about} is seen in {len(seen)} of {len(pictures)} pictures; at least {LEAST_PICTURES} are needed, "
            f"{WANTED_PICTURES} are better: is it the board that was printed, and sharp?"
        )
    fit = _fitted(seen, size, wide=wide)
    bound = max(GOOD_PX, 3 * float(np.median([view.residual_px for view in fit.views])))
    good = {view.picture: seen[view.picture] for view in fit.views if view.residual_px <= bound}
    if LEAST_PICTURES <= len(good) < len(seen):
        fit = _fitted(good, size, wide=wide)
    residual = fit.camera.residual_px or 0.0
    if residual > MOST_PX:
        raise UnderstudyError(
            f"the corners are {residual:.1f} px rms from where {board.about} would have them: measure the print and "
            "correct its description, lay it flat, or use --wide for a lens of more than 90°"
        )
    if fit.tilt < LEAST_TILT or fit.unsure > 5 * FOCAL_SHARE:
        raise UnderstudyError(
            f"the board is tilted by {fit.tilt:.0f}° at most between two pictures, and the focal length is uncertain "
            f"by {100 * fit.unsure:.1f} %: take pictures of it tilted by 30° and more left, right, front and back"
        )
    left_out = sorted(set(seen) - {view.picture for view in fit.views})
    return Lens(fit.camera, fit.views, tuple(left_out), _doubts(fit))


def _fitted(seen: Mapping[int, Sighting], size: tuple[int, int], *, wide: bool) -> _Fit:
    points = [one.points.astype(np.float32) for one in seen.values()]
    pixels = [one.pixels.astype(np.float32) for one in seen.values()]
    flags = 0 if wide else cv2.CALIB_FIX_K3
    start, none = np.eye(3), np.zeros(5)
    residual, found, distortion, turns, shifts, deviations, _, _ = cv2.calibrateCameraExtended(
        points, pixels, size, start, none, flags=flags
    )
    matrix, bend = np.asarray(found, np.float64), np.asarray(distortion, np.float64).ravel()[:5]
    camera = Camera(size, matrix, bend, residual_px=float(residual))
    views, normals = [], np.empty((len(seen), 3))
    for row, (number, one) in enumerate(seen.items()):
        views.append(View(number, one.pixels, _projected(camera, one.points, turns[row], shifts[row])))
        normals[row] = cv2.Rodrigues(turns[row])[0][:, 2]
    tilt = float(np.degrees(np.arccos(np.clip((normals @ normals.T).min(), -1, 1))))
    unsure = float(np.max(np.asarray(deviations).ravel()[:2] / np.diag(matrix)[:2]))
    return _Fit(camera, tuple(views), tilt, unsure)


def _projected(camera: Camera, points: Floats, turn: MatLike, shift: MatLike) -> Floats:
    """Points [N, 3] of a frame at a rotation vector and a shift from the camera's → [N, 2] px."""
    found = cv2.projectPoints(points, turn, shift, camera.matrix, camera.distortion)[0]
    return np.asarray(found, np.float64).reshape(-1, 2)


def _vector(turn: Floats) -> Floats:
    """Of a rotation [3, 3]: axis times angle [3] rad."""
    return np.asarray(cv2.Rodrigues(turn)[0], np.float64).ravel()


def _doubts(fit: _Fit) -> tuple[str, ...]:
    told = []
    if len(fit.views) < WANTED_PICTURES:
        told.append(f"{len(fit.views)} pictures count, {WANTED_PICTURES} are better")
    if fit.unsure > FOCAL_SHARE:
        told.append(f"the focal length is uncertain by {100 * fit.unsure:.1f} %: tilt the board more, bring it nearer")
    if (fit.camera.residual_px or 0.0) > FAIR_PX:
        told.append(f"{fit.camera.residual_px:.1f} px is much: is the board flat, are the pictures sharp?")
    reach = np.ptp(np.concatenate([view.pixels for view in fit.views]), axis=0) / fit.camera.size
    if reach.min() < 0.6:
        told.append(
            f"the board covers {100 * reach[0]:.0f} % of the width and {100 * reach[1]:.0f} % of the height: "
            "towards the picture's border the lens is guessed; hold the board there too"
        )
    return tuple(told)


def place_by_board(
    camera: Camera, pictures: Sequence[Picture], board: Board, base_from_board: Floats | Sequence[Floats]
) -> Placed:
    """Place a fixed camera by a board whose pose [4, 4] is known, or its pose in each picture [T, 4, 4].

    The latter is a board on the gripper: ``base_from_gripper @ gripper_from_board``, with no hand-eye to solve.
    """
    poses = np.broadcast_to(np.asarray(base_from_board, np.float64), (len(pictures), 4, 4))
    found: dict[int, Sighting] = {}
    for number, (picture, pose) in enumerate(zip(pictures, poses, strict=True)):
        if (one := board.find(picture)) is not None:
            found[number] = Sighting(one.points @ checked_pose(pose)[:3, :3].T + pose[:3, 3], one.pixels)
    if not found:
        raise UnderstudyError(f"{board.about} is seen in none of {len(pictures)} pictures")
    return place(sized(camera, pictures), found)


def place_by_tags(camera: Camera, pictures: Sequence[Picture], middles: Mapping[int, Sequence[float]]) -> Placed:
    """Place a fixed camera by tags of any size: id → its middle [3] m in the base's frame, four of them or more."""
    camera, found = sized(camera, pictures), {}
    for number, picture in enumerate(pictures):
        seen = find_tags(picture)
        there = sorted(set(seen) & set(middles))
        if there:
            pixels = np.array([_middle(camera, seen[tag]) for tag in there])
            found[number] = Sighting(np.array([middles[tag] for tag in there], np.float64), pixels)
    count = len({tuple(point) for one in found.values() for point in one.points})
    if count < 4:
        raise UnderstudyError(f"{count} of the tags {sorted(middles)} are seen; four are needed, not on one line")
    return place(camera, found)


def _middle(camera: Camera, corners: Floats) -> Floats:
    """Where the diagonals of a tag [4, 2] px meet, which the mean of its corners misses: [2] px."""
    a, b, c, d = camera.rays(corners)
    ray = np.cross(np.cross(a, c), np.cross(b, d))
    return replace(camera, base_from_camera=np.eye(4)).project(ray / ray[2])


def sized(camera: Camera, pictures: Sequence[Picture]) -> Camera:
    """The camera at the size of its pictures."""
    size = _size(pictures)
    return camera if size == camera.size else camera.scaled(size)


def _size(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Width and height."""
    sizes = {(picture.shape[1], picture.shape[0]) for picture in pictures}
    if len(sizes) != 1:
        raise UnderstudyError(f"a camera has pictures of one size, got {sorted(sizes) or 'no picture'}")
    return sizes.pop()


def place(camera: Camera, seen: Mapping[int, Sighting]) -> Placed:
    """Place a fixed camera by points [N, 3] m of the base's frame, by the number of the picture that shows them."""
    points, pixels = (np.concatenate([getattr(one, name) for one in seen.values()]) for name in ("points", "pixels"))
    camera_from_base, residual, other = solved(camera, points, pixels)
    placed = replace(camera, base_from_camera=inverted(camera_from_base), residual_px=residual)
    views = tuple(View(number, one.pixels, placed.project(one.points)) for number, one in seen.items())
    if residual > MOST_PX:
        apart = np.linalg.norm(pixels - placed.project(points), axis=1)
        raise UnderstudyError(
            f"the points are {residual:.1f} px rms from where they were said to be, worst "
            f"{points[apart.argmax()].round(4).tolist()} m by {apart.max():.1f} px: is a place wrong, or two exchanged?"
        )
    told = []
    if other < 2 * max(residual, GOOD_PX / 5):
        told.append("a mirrored place fits nearly as well: bring the camera nearer, tilt it, or spread the points")
    if residual > FAIR_PX:
        told.append(f"{residual:.1f} px is much: calibrate the lens anew, and measure the points again")
    sigma_mm = 1e3 * _sigma(camera, camera_from_base, points, residual)
    if sigma_mm > UNSURE_MM:
        told.append(f"the pixels tell where the camera is to {sigma_mm:.0f} mm only: more points, farther apart")
    return Placed(placed, views, sigma_mm, tuple(told))


def solved(camera: Camera, points: Floats, pixels: Floats) -> tuple[Floats, float, float]:
    """Camera_from_points [4, 4], its residual [px], and that of the second best (infinite if there is none).

    Raises `UnderstudyError` for fewer than four points, or points on a line.
    """
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if len(points) < 4 or spread[1] < 0.02 * spread[0]:
        raise UnderstudyError(f"a pose needs four points that are not on one line, got {points.round(4).tolist()}")
    ways = [cv2.SOLVEPNP_SQPNP]
    if spread[2] < 0.02 * spread[0]:  # flat, as far as a ruler tells
        ways.append(cv2.SOLVEPNP_IPPE_SQUARE if _square(points) else cv2.SOLVEPNP_IPPE)
    known = camera.matrix, camera.distortion
    rule = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-12)
    begun = [cv2.solvePnPGeneric(points, pixels, *known, flags=way)[1:3] for way in ways]
    found: list[tuple[float, Floats]] = []
    for start, away in ((start, away) for turns, shifts in begun for start, away in zip(turns, shifts, strict=True)):
        turn, shift = cv2.solvePnPRefineLM(points, pixels, *known, start, away, rule)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], np.ravel(shift)
        found.append((rms(_projected(camera, points, turn, shift) - pixels), pose))
    found.sort(key=lambda one: one[0])
    others = [one for one in found[1:] if np.abs(one[1] - found[0][1]).max() > 1e-3]
    return found[0][1], found[0][0], others[0][0] if others else np.inf


def _square(points: Floats) -> bool:
    """Is it one tag about the origin, its corners in the order that IPPE_SQUARE wants?"""
    order = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]])
    return len(points) == 4 and np.allclose(points, points[1, 0] * order)


def _sigma(camera: Camera, camera_from_base: Floats, points: Floats, residual: float) -> float:
    """One standard deviation of the camera's place [m], were the residual all there is of noise."""
    known = np.concatenate([_vector(camera_from_base[:3, :3]), camera_from_base[:3, 3]])
    slopes = cv2.projectPoints(points, known[:3], known[3:], camera.matrix, camera.distortion)[1]
    slope = np.asarray(slopes, np.float64)[:, :6]
    free = max(2 * len(points) - 6, 1)
    noise = max(residual, 0.05) ** 2 * len(points) / free
    moved = np.empty((3, 6))
    for number, step in enumerate(1e-6 * np.eye(6)):
        ends = [-cv2.Rodrigues(end[:3])[0].T @ end[3:] for end in (known + step, known - step)]
        moved[:, number] = (ends[0] - ends[1]) / 2e-6
    return float(np.sqrt(np.trace(moved @ np.linalg.pinv(slope.T @ slope) @ moved.T) * noise))


def hand_eye(
    camera: Camera, pictures: Sequence[Picture], board: Board, base_from_gripper: Sequence[Floats], where: Where
) -> HandEye:
    """Where a camera is on the gripper, or one that looks at a board on the gripper is in the base's frame.

    ``base_from_gripper`` [T, 4, 4]: the robot's own pose at each picture.
    """
    if len(pictures) != len(base_from_gripper):
        raise UnderstudyError(f"each picture needs a pose: {len(pictures)} and {len(base_from_gripper)} were given")
    camera = sized(camera, pictures)
    seen = {number: found for number, picture in enumerate(pictures) if (found := board.find(picture)) is not None}
    if len(seen) < LEAST_POSES:
        raise UnderstudyError(f"{board.about} is seen in {len(seen)} of {len(pictures)} pictures; three are needed")
    carried = np.array([base_from_gripper[number] for number in seen], np.float64)
    eye = solve_hand_eye(carried, [solved(camera, one.points, one.pixels)[0] for one in seen.values()], where)
    views = []
    for (number, one), pose in zip(seen.items(), carried, strict=True):
        base = pose if where == "eye-to-hand" else inverted(pose)
        there = replace(camera, base_from_camera=inverted(inverted(eye.mount) @ base @ eye.board))
        views.append(View(number, one.pixels, there.project(one.points)))
    return replace(eye, views=tuple(views))


def solve_hand_eye(base_from_gripper: Sequence[Floats] | Floats, boards: Sequence[Floats], where: Where) -> HandEye:
    """The same of poses alone: ``boards`` [T, 4, 4] are camera_from_board; the best of OpenCV's methods."""
    poses = [checked_pose(np.asarray(pose, np.float64)) for pose in base_from_gripper]
    if len(poses) < LEAST_POSES:
        raise UnderstudyError(f"a hand-eye calibration needs three poses, better {WANTED_PICTURES}, got {len(poses)}")
    turns = [_vector(one[:3, :3].T @ other[:3, :3]) for one, other in combinations(poses, 2)]
    about = np.degrees(np.linalg.svd(np.array(turns), compute_uv=False) / np.sqrt(len(turns)))
    if about[1] < LEAST_TURN:
        raise UnderstudyError(
            f"the gripper turns by {about[0]:.1f}° about one axis and by {about[1]:.1f}° about a second (rms): "
            "turn it by 20° and more about two axes, or where the camera is cannot be told"
        )
    found = _compared(poses, boards, where)
    told = [f"{len(poses)} poses count, {WANTED_PICTURES} are better"] if len(poses) < WANTED_PICTURES else []
    if found.residual_mm > MOVED_MM:
        other = _compared([inverted(pose) for pose in poses], boards, where).residual_mm
        if other < 0.3 * found.residual_mm:
            raise UnderstudyError(
                f"the board moves by {found.residual_mm:.0f} mm where it should stand, and by {other:.1f} mm were the "
                f"poses inverted: are they gripper_from_base, or is the camera not {where}?"
            )
        told.append(
            f"the board moves by {found.residual_mm:.1f} mm where it should stand: do poses and pictures belong "
            "together, did the board slip, is the lens calibrated?"
        )
    return replace(found, warnings=tuple(told))


def _compared(poses: Sequence[Floats], boards: Sequence[Floats], where: Where) -> HandEye:
    carried = np.array(poses if where == "eye-in-hand" else [inverted(pose) for pose in poses])
    seen, best, errors = np.array(boards, np.float64), None, {}
    for name, method in METHODS.items():
        hands, eyes = ((list(of[:, :3, :3]), list(of[:, :3, 3])) for of in (carried, seen))
        mount = np.eye(4)
        try:
            mount[:3, :3], shift = cv2.calibrateHandEye(*hands, *eyes, method=method)
        except cv2.error:  # does not converge
            continue
        mount[:3, 3] = np.ravel(shift)
        if not np.isfinite(mount).all():
            continue
        board, errors[name], degrees = _stands(carried @ mount @ seen)
        if best is None or errors[name] < best.residual_mm:
            best = HandEye(mount, board, name, errors[name], degrees, errors, ())
    if best is None:
        raise UnderstudyError("no method finds where the camera is: the poses do not tell it")
    return best


def _stands(poses: Floats) -> tuple[Floats, float, float]:
    """The mean of poses [T, 4, 4], and how far they are from it (rms): mm, degrees."""
    mean = np.eye(4)
    left, _, right = np.linalg.svd(poses[:, :3, :3].sum(0))
    mean[:3, :3], mean[:3, 3] = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right, poses[:, :3, 3].mean(0)
    turned = np.array([_vector(mean[:3, :3].T @ pose[:3, :3]) for pose in poses])
    return mean, 1e3 * rms(poses[:, :3, 3] - mean[:3, 3]), float(np.degrees(rms(turned)))


def checked_pose(pose: Floats) -> Floats:
    """``pose`` [4, 4] itself; raises `UnderstudyError` for a matrix that is none."""
    turn = pose[:3, :3] if pose.shape == (4, 4) else np.zeros((3, 3))
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise UnderstudyError(f"a pose is a rotation and a shift [4, 4], got {np.round(pose, 3).tolist()}")
    return pose


def rms(offsets: Floats) -> float:
    """Of the lengths of offsets [N, K]."""
    return float(np.sqrt((np.asarray(offsets) ** 2).sum(-1).mean()))
