"""A hand of capsules and one ellipsoid, to be added to any scene: it is posed, never simulated.

    hand = Hand(HandLook(side=1, scale=1.0, skin=SKINS[2], sleeve=(0.2, 0.3, 0.6)))
    spec = mujoco.MjSpec.from_file(...)
    hand.add(spec)
    model = spec.compile()
    hand.bind(model)
    hand.show(data, Grip(point, yaw_pitch_roll, gap=0.05), shoulder)   # then mj_kinematics

The palm's frame: x towards the fingertips, z out of the back of the hand, y to the left, origin in the middle of the
palm. At yaw, pitch and roll of 0 the palm faces down and the fingers point along the world's x; pitch lowers the
fingers. What is steered is not the palm but the *tool point*: the middle between the pads of thumb and fingers, or
the tip of the finger that points, or of those that push. The left hand is the right one's mirror image.
"""

from dataclasses import dataclass, field
from functools import cache

import mujoco
import numpy as np

SKINS = (
    *((0.96, 0.80, 0.69), (0.90, 0.72, 0.58), (0.82, 0.61, 0.46)),
    *((0.68, 0.47, 0.33), (0.50, 0.33, 0.22), (0.35, 0.22, 0.15)),
)
KEYPOINTS = 21
"""Wrist, then thumb, index, middle, ring and little finger from the root to the tip (the order of MediaPipe)."""

_FINGERS = ("thumb", "index", "middle", "ring", "little")
_ROOTS = {
    "thumb": (-0.018, 0.030, -0.008),
    "index": (0.044, 0.028, 0.002),
    "middle": (0.048, 0.008, 0.004),
    "ring": (0.043, -0.012, 0.002),
    "little": (0.034, -0.031, -0.001),
}
"""Where each finger starts [m] in the palm of a right hand of 18 cm."""
_LENGTHS = {
    "thumb": (0.043, 0.034, 0.027),
    "index": (0.044, 0.026, 0.021),
    "middle": (0.048, 0.029, 0.022),
    "ring": (0.044, 0.027, 0.021),
    "little": (0.034, 0.020, 0.018),
}
_RADII = {"thumb": (0.0125, 0.0110, 0.0095), "little": (0.0085, 0.0078, 0.0070)}
_USUAL_RADII = (0.0098, 0.0088, 0.0078)
_PALM_HALF = (0.050, 0.043, 0.016)
_WRIST = (-0.048, 0.0, 0.0)
_THUMB_ALONG, _THUMB_BENDS_TO = (0.62, 0.62, -0.48), (0.55, -0.70, -0.45)
_FOREARM = (0.027, 0.19)
"""Radius and length [m]; the sleeve begins before it ends."""
_SLEEVE = (0.040, 0.14, 1.0)
PAD = 0.008
"""From the middle of a fingertip to its pad [m]."""

_PINCH_AT, _PINCH_TILT = (0.070, 0.014, -0.060), np.radians(38)
"""Where the pads meet in the palm's frame; at this pitch the line from thumb to fingers is level."""
_GAPS = np.linspace(0.0, 0.11, 12)
_REST = np.array([0.0, 0.55, 0.65, 0.4])
_THUMB_REST = np.array([0.0, 0.3, 0.3, 0.3])
_RING_CURL, _LITTLE_CURL = np.array([0, 0.12, 0.1, 0.1]), np.array([0, 0.2, 0.2, 0.15])
"""How much more than the middle finger the others bend in a pinch [rad]."""
_POINTING = {"thumb": (-0.1, 0.9, 0.7, 0.6), "index": (0.0, 0.2, 0.15, 0.1)} | dict.fromkeys(
    _FINGERS[2:], (0.0, 1.35, 1.55, 0.8)
)
_FLAT = {"thumb": (0.0, 0.25, 0.2, 0.2)} | dict.fromkeys(_FINGERS[1:], (0.0, 0.3, 0.18, 0.1))


@dataclass(frozen=True)
class HandLook:
    """One person's hand: ``side`` +1 right, -1 left; ``scale`` 1 is 18 cm long; colours in 0…1."""

    side: int
    scale: float
    skin: tuple[float, float, float]
    sleeve: tuple[float, float, float]


@dataclass(frozen=True)
class Grip:
    """What a demonstrator's tool does at one instant.

    ``point`` [3] m: where the tool point is; ``angles`` [3] rad: yaw, pitch, roll; ``gap`` m between the pads;
    ``pointing`` and ``flat`` 0…1: how much the hand points with a finger, or holds its fingers straight and together.
    """

    point: np.ndarray
    angles: np.ndarray
    gap: float
    pointing: float = 0.0
    flat: float = 0.0


@dataclass(frozen=True)
class _Postures:
    """Angles [20] and tool points [3] of a right hand of scale 1: for each gap, then for pointing and for flat."""

    angles: np.ndarray
    points: np.ndarray


@dataclass
class Hand:
    """`sim.human_tools.Demonstrator` with five fingers."""

    look: HandLook
    _joints: np.ndarray = field(init=False, repr=False)
    _mocaps: tuple[int, int] = field(init=False, repr=False)
    _sites: np.ndarray = field(init=False, repr=False)
    geoms: frozenset[int] = field(init=False, repr=False, default=frozenset())
    """ids of the hand's own geoms, forearm and sleeve not among them"""

    def add(self, spec: mujoco.MjSpec) -> None:
        """Put the hand and its forearm last among the bodies of ``spec``."""
        add_hand(spec, self.look)
        arm = spec.worldbody.add_body(name="forearm", mocap=True)
        for name, color, (radius, start, end) in (
            ("forearm", self.look.skin, (_FOREARM[0], 0.0, _FOREARM[1])),
            ("sleeve", self.look.sleeve, _SLEEVE),
        ):
            span = self.look.scale * np.array([0, 0, start, 0, 0, end])
            size = [radius * self.look.scale, 0, 0]
            add_shape(arm, name, kind="CAPSULE", size=size, rgb=color, fromto=span)

    def bind(self, model: mujoco.MjModel) -> None:
        """Look up where the hand is in the compiled ``model``."""
        self._joints = np.array([model.joint(name).qposadr[0] for name in _joint_names()])
        self._mocaps = tuple(int(model.body(name).mocapid[0]) for name in ("palm", "forearm"))
        self._sites = np.array([model.site(f"keypoint {number}").id for number in range(KEYPOINTS)])
        inside = [f"{finger} {bone}" for finger in _FINGERS for bone in range(3)]
        self.geoms = frozenset(model.geom(name).id for name in ("palm", "thenar", *inside))

    def show(self, data: mujoco.MjData, grip: Grip, shoulder: np.ndarray) -> np.ndarray:
        """Write the hand's pose into ``data`` (mj_kinematics is the caller's); the palm's pose [7] (xyz, wxyz)."""
        angles, offset = posture(grip, self.look.scale)
        rotation = rotation_of(grip.angles)
        palm = grip.point - rotation @ (offset * [1, self.look.side, 1] * self.look.scale)
        data.qpos[self._joints] = angles
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, rotation.reshape(-1))
        hand, arm = self._mocaps
        data.mocap_pos[hand], data.mocap_quat[hand] = palm, quaternion
        wrist = palm + rotation @ (np.array(_WRIST) * self.look.scale)
        data.mocap_pos[arm] = wrist
        mujoco.mju_quatZ2Vec(data.mocap_quat[arm], shoulder - wrist)
        return np.concatenate([palm, quaternion])

    def keypoints(self, data: mujoco.MjData) -> np.ndarray:
        """Where the 21 keypoints are [21, 3], world."""
        return data.site_xpos[self._sites].copy()


def rotation_of(angles: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] of yaw, pitch and roll [rad]."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles), np.sin(angles)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def posture(grip: Grip, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles [20] of the joints, and the tool point [3] in the palm of a right hand of scale 1."""
    known = _postures()
    place = float(np.clip(grip.gap / scale, 0, _GAPS[-1])) / _GAPS[-1] * (len(_GAPS) - 1)
    low = min(int(place), len(_GAPS) - 2)
    weights = np.zeros(len(known.angles))
    weights[low], weights[low + 1] = 1 - (place - low), place - low
    weights *= max(0.0, 1 - grip.pointing - grip.flat)
    weights[-2:] = grip.pointing, grip.flat
    return weights @ known.angles, weights @ known.points


def add_shape(
    body: "mujoco.MjsBody", name: str, *, kind: str, size: object, rgb: object, **place: object
) -> "mujoco.MjsGeom":
    """A geom that is seen and touches nothing; ``place``: ``pos``, ``quat`` or ``fromto``."""
    shape = getattr(mujoco.mjtGeom, f"mjGEOM_{kind}")
    return body.add_geom(
        name=name, type=shape, size=size, rgba=[*rgb, 1.0], contype=0, conaffinity=0, mass=0.01, **place
    )


def weigh(body: "mujoco.MjsBody") -> "mujoco.MjsBody":
    """Give a body on a joint some inertia: a model may take none from geoms like ours, and is then refused."""
    body.mass, body.inertia, body.explicitinertial = 0.01, [1e-5] * 3, True
    body.ipos, body.iquat = [0, 0, 0], [1, 0, 0, 0]
    return body


def add_hand(spec: mujoco.MjSpec, look: HandLook) -> None:
    """The palm as a mocap body, the fingers as chains of hinges on it."""
    s = look.scale
    shade = np.random.default_rng(round(1e6 * sum(look.skin))).uniform(0.93, 1.0)  # fingers apart from the palm
    finger_skin = np.clip(np.array(look.skin) * shade, 0, 1)
    palm = spec.worldbody.add_body(name="palm", mocap=True)
    add_shape(palm, "palm", kind="ELLIPSOID", size=s * np.array(_PALM_HALF), rgb=look.skin)
    ball = s * np.array([-0.008, 0.022 * look.side, -0.006])
    add_shape(palm, "thenar", kind="ELLIPSOID", size=s * np.array([0.03, 0.019, 0.016]), rgb=look.skin, pos=ball)
    _mark(palm, 0, s * np.array(_WRIST))
    for number, finger in enumerate(_FINGERS):
        root = np.array(_ROOTS[finger]) * [1, look.side, 1] * s
        quaternion = _thumb_frame(look.side) if finger == "thumb" else np.array([1.0, 0, 0, 0])
        body = weigh(palm.add_body(name=f"{finger} root", pos=root, quat=quaternion))
        _hinge(body, f"{finger} sideways", (0, 0, look.side))
        for bone, length in enumerate(np.array(_LENGTHS[finger]) * s):
            _hinge(body, f"{finger} bend {bone}", (0, 1, 0))
            _mark(body, 1 + 4 * number + bone, np.zeros(3))
            radius = _RADII.get(finger, _USUAL_RADII)[bone] * s
            span = np.array([0, 0, 0, length, 0, 0])
            add_shape(body, f"{finger} {bone}", kind="CAPSULE", size=[radius, 0, 0], rgb=finger_skin, fromto=span)
            if bone == 2:
                _mark(body, 4 + 4 * number, np.array([length, 0, 0]))
            else:
                body = weigh(body.add_body(name=f"{finger} {bone + 1}", pos=[length, 0, 0]))


def _mark(body: "mujoco.MjsBody", number: int, position: np.ndarray) -> None:
    body.add_site(name=f"keypoint {number}", pos=position, size=[0.002] * 3, rgba=[0, 0, 0, 0], group=4)


def _hinge(body: "mujoco.MjsBody", name: str, axis: tuple[int, int, int]) -> None:
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=axis)


def _joint_names() -> list[str]:
    kinds = ("sideways", "bend 0", "bend 1", "bend 2")
    return [f"{finger} {kind}" for finger in _FINGERS for kind in kinds]


def _thumb_frame(side: int) -> np.ndarray:
    """Quaternion of the thumb's root: x along the thumb, and bending moves its tip across the palm."""
    mirror = np.array([1, side, 1])
    along = np.array(_THUMB_ALONG) * mirror
    along /= np.linalg.norm(along)
    across = np.array(_THUMB_BENDS_TO) * mirror
    across -= (across @ along) * along
    up = -across / np.linalg.norm(across)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([along, np.cross(up, along), up], axis=1).reshape(-1))
    return quaternion


@cache
def _postures() -> _Postures:
    """Solve the pinch for every gap once; angles do not depend on the size of the hand, nor on its side."""
    spec = mujoco.MjSpec()
    add_hand(spec, HandLook(side=1, scale=1.0, skin=SKINS[0], sleeve=SKINS[0]))
    model = spec.compile()
    data = mujoco.MjData(model)
    rows, points = [], []
    angles = np.concatenate([_THUMB_REST, *[_REST] * 4])
    for gap in _GAPS[::-1]:
        angles = _solve_pinch(model, data, gap, angles)
        rows.append(angles)
        points.append((_tip(data, 0) + (_tip(data, 1) + _tip(data, 2)) / 2) / 2)
    rows, points = rows[::-1], points[::-1]
    for table, finger in ((_POINTING, 1), (_FLAT, 2)):
        angles = np.concatenate([table[name] for name in _FINGERS])
        data.qpos[:] = angles
        mujoco.mj_kinematics(model, data)
        rows.append(angles)
        points.append(_tip(data, finger))
    return _Postures(np.array(rows), np.array(points))


def _tip(data: mujoco.MjData, finger: int) -> np.ndarray:
    return data.site_xpos[4 + 4 * finger].copy()


def _solve_pinch(model: mujoco.MjModel, data: mujoco.MjData, gap: float, start: np.ndarray) -> np.ndarray:
    """Angles [20] at which thumb and first two fingers are ``gap`` apart: damped least squares, drawn to the rest."""
    rest = np.concatenate([_THUMB_REST, *[_REST] * 4])
    axis = np.array([np.cos(_PINCH_TILT), 0, np.sin(_PINCH_TILT)])
    reach = axis * (gap / 2 + PAD)
    middle = np.array(_PINCH_AT)
    spread = np.array([0, 0.0095, 0])
    wanted = np.stack([middle - reach, middle + reach + spread, middle + reach - spread])
    angles, solved = start.copy(), np.arange(12)
    jacobian = np.zeros((9, model.nv))
    for _ in range(80):
        data.qpos[:] = angles
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        for finger in range(3):
            rows = jacobian[3 * finger : 3 * finger + 3]
            mujoco.mj_jacSite(model, data, rows, None, 4 + 4 * finger)
        error = (wanted - np.stack([_tip(data, finger) for finger in range(3)])).reshape(-1)
        moved = jacobian[:, solved]
        home = 2e-4 * (rest - angles)[solved]
        step = np.linalg.solve(moved.T @ moved + 5e-4 * np.eye(12), moved.T @ error + home)
        angles[solved] += np.clip(step, -0.2, 0.2)
    angles[12:16], angles[16:] = angles[8:12] + _RING_CURL, angles[8:12] + _LITTLE_CURL
    data.qpos[:] = angles
    mujoco.mj_kinematics(model, data)
    return angles
