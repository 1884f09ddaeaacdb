"""A video of a hand → setpoints of an arm, and how far to trust them: the whole chain, and the folder it leaves.

videos ─► tracks ─► lift ─► tool's path ─► joints ─► pace
                                              └─► quality: report.html, quality.json, hand_and_arm.mp4
out/  tracks/NAME.npz  joints.npz  quality.json  report.html  hand_and_arm.mp4
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_bridge.arms.arm import ArmSpec
from robot_bridge.retarget.cameras import Camera, camera_of, load_cameras
from robot_bridge.retarget.folder import Prepared
from robot_bridge.retarget.hands import INDEX_TIP, THUMB_TIP, Floats, HandTrack, Side
from robot_bridge.retarget.inverse import InverseConfig, Solved, solve
from robot_bridge.retarget.keyframes import KeyframesConfig, keyframes
from robot_bridge.retarget.lifting import HandPath, Method, given, mono, rgbd, stereo
from robot_bridge.retarget.linkage import Linkage
from robot_bridge.retarget.pacing import JointPath, arm_only, paced
from robot_bridge.retarget.quality import Quality, judged
from robot_bridge.retarget.tool_path import ToolPath, ToolPathConfig, tool_path
from robot_bridge.retarget.track import tracked
from vla.errors import UnderstudyError

Lift = Literal["auto", "stereo", "rgbd", "plane", "mono", "given"]


@dataclass(frozen=True)
class RetargetConfig:
    """What is to be made of a video."""

    lift: Lift = "auto"
    """auto: rgbd where there is depth, stereo of several videos, plane of one, mono without cameras; given without
    pixels"""
    side: Side | None = None
    """which hand; the one that is seen more often, if not given"""
    hz: float = 50.0
    """setpoints a second"""
    path: ToolPathConfig = field(default_factory=ToolPathConfig)
    table: KeyframesConfig = field(default_factory=KeyframesConfig)
    inverse: InverseConfig = field(default_factory=InverseConfig)


@dataclass(frozen=True)
class Retargeted:
    """All that became of a video; ``joints``: ``None`` where the arm finds no way.

    ``hand``: ``None`` of the lift plane, which knows places alone.
    """

    tracks: Mapping[str, HandTrack]
    hand: HandPath | None
    path: ToolPath
    solved: Solved
    joints: JointPath | None
    quality: Quality

    def prepared(self, embodiment: str, hz: float) -> Prepared | None:
        """What an arm of that name is given, ``None`` where it finds no way."""
        if self.joints is None:
            return None
        return Prepared(self.joints.joints, hz, embodiment, self.joints.source_s, self.quality.verdict)


def retarget(
    tracks: Mapping[str, HandTrack],
    cameras: Mapping[str, Camera],
    linkage: Linkage,
    spec: ArmSpec,
    *,
    config: RetargetConfig | None = None,
    depths: Callable[[int], NDArray[np.float32]] | None = None,
) -> Retargeted:
    """Setpoints of an arm for the hand in ``tracks``, by the name of their cameras.

    ``depths``: the depth [H, W] m of a frame of the first track. Raises `UnderstudyError` where there is no hand, no
    grasp that a lift needs, or no camera of a track's name; what is merely bad, ``quality`` says.
    """
    config = config or RetargetConfig()
    path, raw, hand = lifted(tracks, cameras, config, depths)
    solved = solve(linkage, path, arm_only(spec), config.inverse)
    try:
        joints = paced(path, solved, spec, rate_hz=config.hz, config=config.inverse)
    except UnderstudyError:
        joints = None
    quality = judged(path, solved, joints, raw=raw, limits=arm_only(spec))
    return Retargeted(tracks, hand, path, solved, joints, quality)


def lifted(
    tracks: Mapping[str, HandTrack],
    cameras: Mapping[str, Camera],
    config: RetargetConfig,
    depths: Callable[[int], NDArray[np.float32]] | None,
) -> tuple[ToolPath, Floats, HandPath | None]:
    """The tool's path, its place [T, 3] before it was smoothed, and the whole hand's, unless the lift is plane."""
    method = chosen(config.lift, tracks, cameras, depths is not None)
    name, track = next(iter(tracks.items()))
    if method == "plane":
        path = keyframes(track, camera_of(cameras, name), config.side, config.table)
        return path, path.position, None
    if method == "stereo":
        for other in tracks:
            camera_of(cameras, other)
        hand = stereo(tracks, cameras, config.side)
    elif method == "given":
        if measured_by_itself(track) and name not in cameras:
            raise UnderstudyError(
                f"the hands of {name} are in a frame of their own, and nobody says where it stands in the arm's base: "
                f"give --cameras FILE with a camera {name} whose base_from_camera does"
            )
        hand = given(track, cameras.get(name), config.side)
    elif method == "rgbd":
        assert depths is not None
        hand = rgbd(track, camera_of(cameras, name), depths, config.side)
    else:
        hand = mono(track, cameras.get(name) or guessed_camera(track.size), config.side)
    return tool_path(hand, config.path), hand.points[:, [THUMB_TIP, INDEX_TIP]].mean(1), hand


def chosen(lift: Lift, tracks: Mapping[str, HandTrack], cameras: Mapping[str, Camera], depth: bool) -> Method:
    """Which lift; raises `UnderstudyError` for one that lacks what it needs."""
    if lift == "auto" and all(measured_by_itself(track) for track in tracks.values()):
        lift = "given"
    if lift == "auto":
        lift = "mono" if not cameras else "rgbd" if depth else "stereo" if len(tracks) > 1 else "plane"
    if lift not in ("mono", "given") and not cameras:
        raise UnderstudyError(f"the lift {lift} needs calibrated cameras: --cameras FILE, made by vla calibrate")
    if lift == "rgbd" and not depth:
        raise UnderstudyError("the lift rgbd needs the camera's depth: --depth FOLDER or FILE.npy")
    return lift


def measured_by_itself(track: HandTrack) -> bool:
    """Whether it has places and no pixels: those of a device with cameras of its own."""
    return bool(np.isfinite(track.points).any()) and not np.isfinite(track.pixels).any()


def guessed_camera(size: tuple[int, int]) -> Camera:
    """One of a phone's usual 65 degrees across, for a look at a video of which nothing is known."""
    focal = size[0] / 2 / np.tan(np.radians(65) / 2)
    matrix = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1.0]])
    return Camera(size, matrix)


def read_tracks(videos: Mapping[str, Path], folder: Path) -> dict[str, HandTrack]:
    """Of videos, or of tracks that were made of them (``.npz``); those of videos are kept in ``folder``."""
    tracks = {}
    for name, video in videos.items():
        if video.suffix == ".npz":
            tracks[name] = HandTrack.load(video)
        else:
            tracks[name] = tracked(video, folder / "tracks" / name)
    return tracks


def read_depths(source: Path) -> Callable[[int], NDArray[np.float32]]:
    """Frame → depth [H, W] m, of a folder of 16-bit PNGs in millimetres, in order, or of an array [T, H, W] (.npy).

    The array holds metres as floats, or millimetres as 16-bit integers.
    """
    if source.is_dir():
        files = sorted(source.glob("*.png"))
        if not files:
            raise UnderstudyError(f"{source} has no .png: depth is a folder of 16-bit PNGs, in millimetres")

        def of_folder(frame: int) -> NDArray[np.float32]:
            if frame >= len(files):
                raise UnderstudyError(f"{source} has {len(files)} pictures of depth, and the video more frames")
            picture = cv2.imread(str(files[frame]), cv2.IMREAD_UNCHANGED)
            if picture is None or picture.dtype != np.uint16 or picture.ndim != 2:
                raise UnderstudyError(f"{files[frame]} is no 16-bit grey picture")
            return np.asarray(picture, np.float32) / np.float32(1000)

        return of_folder
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UnderstudyError(
            f"{source} is no depth: a folder of 16-bit PNGs, or an array [T, H, W] in .npy"
        ) from error
    unit = 1000.0 if np.issubdtype(array.dtype, np.integer) else 1.0
    return lambda frame: np.asarray(array[frame], np.float32) / np.float32(unit)


def read_cameras(file: Path | None) -> dict[str, Camera]:
    """Those of a file, none without one."""
    return {} if file is None else load_cameras(file)
