"""From pixels to metres: where the hand is in the frame of the arm's base. Five ways, of which four may move an arm.

    stereo   two or more calibrated cameras: where their rays meet
    rgbd     one camera that measures depth: the depth at each keypoint
    mono     one camera, the hand's size guessed: off by centimetres to decimetres, so to be looked at and no more
    given    a tracker that measures depth by itself: Aria's glasses

The fifth, one camera and a table of known height, knows places only where the hand touches something; it is in
`robot_bridge.retarget.keyframes`. Errors of each: the table in ``robot_bridge/retarget/README.md``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.hands import KEYPOINTS, SIDES, Floats, HandTrack, Side
from vla.errors import UnderstudyError

Method = Literal["stereo", "rgbd", "plane", "mono", "given"]
SKIN_M = 0.009
"""From the skin, which a depth camera sees, to the middle of the joint or the fingertip behind it."""
HAND_M = 0.20
"""No keypoint is farther from the wrist."""
PATCH = 2
"""Pixels around a keypoint whose depths count, to each side."""
NEAR_S = 0.5
"""Two cameras' frames belong together when they are no farther apart than this share of a frame's time."""


@dataclass(frozen=True)
class HandPath:
    """A hand in the frame of the arm's base: ``points`` [T, 21, 3] m at ``stamps`` [T] s, NaN where it is not known.

    ``error_px`` [T]: rms of what the cameras saw beside where the points would be seen, NaN where none is known.
    ``method``: which lift.
    """

    stamps: Floats
    points: Floats
    error_px: Floats
    side: Side
    method: Method

    @property
    def known(self) -> NDArray[np.bool_]:
        """In which frames [T] all of the hand is known."""
        return np.asarray(np.isfinite(self.points).all((1, 2)))


def stereo(tracks: Mapping[str, HandTrack], cameras: Mapping[str, Camera], side: Side | None = None) -> HandPath:
    """Where the rays of two or more cameras meet, by least squares; times are the first track's.

    The tracks' clocks must agree. Raises `UnderstudyError` for fewer than two cameras, for views that are no two of
    one thing, and for clocks that have no frames in common.
    """
    if len(tracks) < 2:
        raise UnderstudyError(f"two cameras see depth, {len(tracks)} does not: give another, or another lift")
    first = next(iter(tracks.values()))
    side = side or _busier(tracks.values())
    seen, sources, views = [], [], []
    for name, track in tracks.items():
        camera = cameras[name].scaled(track.size)
        pixels = _at(track, side, first.stamps)
        rays = camera.rays(pixels) @ camera.base_from_camera[:3, :3].T
        seen.append(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
        sources.append(camera.base_from_camera[:3, 3])
        views.append((camera, pixels))
    points = meeting(np.stack(seen), np.stack(sources))
    path = HandPath(first.stamps, points, reprojection(points, views), side, "stereo")
    if not path.known.any():
        raise UnderstudyError(
            f"no frame of {', '.join(tracks)} shows the {side} hand in two cameras at once: are the videos of the same "
            "moment, and do their times begin together?"
        )
    return path


def meeting(rays: Floats, sources: Floats) -> Floats:
    """Where V rays [V, T, N, 3] (of length 1, NaN for unseen) from ``sources`` [V, 3] come nearest to each other.

    [T, N, 3]: the least squares of the distances to the lines; NaN where fewer than two see, or all are parallel.
    """
    usable: NDArray[np.bool_] = np.asarray(np.isfinite(rays).all(-1))
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    across = np.where(usable[..., None, None], across, 0.0)
    normal = across.sum(0)
    aim = np.einsum("vtnij,vj->tni", across, sources)
    # The least eigenvalue is how much the rays differ in direction: two of 5 degrees give 0.004.
    solvable = (usable.sum(0) >= 2) & (np.linalg.eigvalsh(normal)[..., 0] > 1e-3)
    points = np.full(aim.shape, np.nan)
    points[solvable] = np.linalg.solve(normal[solvable], aim[solvable][..., None])[..., 0]
    return points


def rgbd(
    track: HandTrack,
    camera: Camera,
    depths: Callable[[int], NDArray[np.float32]] | Sequence[NDArray[np.float32]],
    side: Side | None = None,
    *,
    skin_m: float = SKIN_M,
) -> HandPath:
    """The depth [H, W] m along the camera's axis at each keypoint of each frame, and ``skin_m`` behind it.

    A keypoint whose depth belongs to something before or behind the hand is put where the hand's other keypoints and
    the picture's own depth say.
    """
    side = side or track.busier()
    camera, slot = camera.scaled(track.size), SIDES.index(side)
    points = np.full((len(track.stamps), KEYPOINTS, 3), np.nan)
    for frame in np.flatnonzero(track.seen(side)):
        depth = depths(int(frame)) if callable(depths) else depths[int(frame)]
        if depth.shape != track.size[::-1]:
            raise UnderstudyError(f"the depth of frame {frame} is {depth.shape}, the picture {track.size[::-1]}")
        pixels = track.pixels[frame, slot]
        along = measured(depth, pixels)
        along = _mended(along, track.relative[frame, slot] / camera.matrix[0, 0])
        rays = camera.rays(pixels)
        points[frame] = camera.to_base(rays * along[:, None] + skin_m * rays / np.linalg.norm(rays, axis=1)[:, None])
    error = reprojection(points, [(camera, track.pixels[:, slot])])
    return HandPath(track.stamps, points, error, side, "rgbd")


def measured(depth: NDArray[np.float32], pixels: Floats) -> Floats:
    """The depth [N] around each of ``pixels`` [N, 2]: the median of what was measured there, NaN where nothing was."""
    height, width = depth.shape
    found = np.full(len(pixels), np.nan)
    for index, (x, y) in enumerate(np.round(pixels).astype(int)):
        rows = slice(max(0, y - PATCH), min(height, y + PATCH + 1))
        patch = depth[rows, max(0, x - PATCH) : min(width, x + PATCH + 1)]
        good = patch[np.isfinite(patch) & (patch > 0)]
        if len(good):
            found[index] = np.median(good)
    return found


def _mended(along: Floats, relative: Floats) -> Floats:
    """Depths [21] of one hand, those that cannot be of it replaced; ``relative`` [21]: the picture's own, a share of z.

    NaN, all of it, where fewer than half of them agree.
    """
    middle = np.nanmedian(along) if np.isfinite(along).any() else np.nan
    good = np.abs(along - middle) < HAND_M / 2
    if good.sum() < KEYPOINTS / 2:
        return np.full(KEYPOINTS, np.nan)
    guess = relative * middle
    return np.where(good, along, guess + np.median((along - guess)[good]))


def mono(track: HandTrack, camera: Camera, side: Side | None = None) -> HandPath:
    """A hand of usual size, where it would look as it does (PnP): **to be looked at only**.

    Nobody's hand has the usual size, and the picture says little of depth: errors of 5 to 18 cm.
    """
    side = side or track.busier()
    camera, slot = camera.scaled(track.size), SIDES.index(side)
    points = np.full((len(track.stamps), KEYPOINTS, 3), np.nan)
    guess: tuple[Floats, Floats] | None = None
    for frame in np.flatnonzero(track.seen(side)):
        shape, pixels = track.world[frame, slot], track.pixels[frame, slot]
        if guess is None:
            done, turn, shift = cv2.solvePnP(shape, pixels, camera.matrix, camera.distortion, flags=cv2.SOLVEPNP_SQPNP)
        else:
            done, turn, shift = cv2.solvePnP(
                shape, pixels, camera.matrix, camera.distortion, guess[0].copy(), guess[1].copy(), True
            )
        if not done or shift[2, 0] <= 0:
            continue
        guess = (np.asarray(turn, np.float64), np.asarray(shift, np.float64))
        points[frame] = camera.to_base(shape @ cv2.Rodrigues(turn)[0].T + shift[:, 0])
    error = reprojection(points, [(camera, track.pixels[:, slot])])
    return HandPath(track.stamps, points, error, side, "mono")


def given(track: HandTrack, camera: Camera | None = None, side: Side | None = None) -> HandPath:
    """A hand whose tracker says itself where it is: as good as its depth.

    A track with pixels is one camera's guess, and stays ``mono``; one without was measured by a device of several
    cameras (Aria). Its frame is moved as ``camera`` stands in the base's, if there is one.
    """
    counts = np.isfinite(track.points).all((2, 3)).sum(0)
    if not counts.any():
        track.busier()  # there may be no hand at all
        raise UnderstudyError(f"{track.source} says nothing of depth: give another lift")
    slot = int(np.argmax(counts)) if side is None else SIDES.index(side)
    there = track.points[:, slot] if camera is None else camera.to_base(track.points[:, slot])
    method: Method = "mono" if np.isfinite(track.pixels).any() else "given"
    return HandPath(track.stamps, there, np.full(len(there), np.nan), SIDES[slot], method)


def reprojection(points: Floats, views: Sequence[tuple[Camera, Floats]]) -> Floats:
    """Rms [T] px of ``points`` [T, N, 3] beside what each camera saw of them [T, N, 2]; NaN where nothing compares."""
    apart = np.stack([camera.project(points) - pixels for camera, pixels in views])
    squares = (apart**2).sum(-1)
    counted = np.isfinite(squares)
    total = np.where(counted, squares, 0.0).sum((0, 2))
    return np.sqrt(np.where(counted.any((0, 2)), total / np.maximum(counted.sum((0, 2)), 1), np.nan))


def _busier(tracks: Iterable[HandTrack]) -> Side:
    counts = np.sum([[track.seen(side).sum() for side in SIDES] for track in tracks], axis=0)
    return SIDES[int(np.argmax(counts))]


def _at(track: HandTrack, side: Side, stamps: Floats) -> Floats:
    """Its pixels [T, 21, 2] at ``stamps`` [T], between two frames on the line; NaN where it has none that near."""
    own, pixels = track.stamps, track.pixels[:, SIDES.index(side)]
    if len(own) == len(stamps) and np.allclose(own, stamps, atol=1e-3):
        return pixels
    after = np.clip(np.searchsorted(own, stamps), 1, len(own) - 1)
    before = after - 1
    share = (stamps - own[before]) / (own[after] - own[before])
    inside = (share > -NEAR_S) & (share < 1 + NEAR_S)
    share = np.clip(share, 0.0, 1.0)[:, None, None]
    between = (1 - share) * pixels[before] + share * pixels[after]
    return np.where(inside[:, None, None], between, np.nan)
