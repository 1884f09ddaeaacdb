"""A smooth skin for the hand of capsules: what a tracker of real hands takes for a hand.

    hand = SkinnedHand(HandLook(side=1, scale=1.0, skin=SKINS[2], sleeve=(0.2, 0.3, 0.6)))
    hand.add(spec)
    model = spec.compile()
    hand.bind(model)
    camera = SkinCamera(model, "front", height=480, width=640)

One closed surface goes around the bones, tapered, and around the flesh of palm, thumb and forearm: the smooth union of
the distances to them, in a rest pose whose fingers are spread, cut by surface nets. Every vertex hangs on the link that
it is nearest to, and on that one's neighbours. The left hand's skin is the right one's mirror image. Rays see no skins:
such a hand is drawn by OpenGL alone.
"""

from dataclasses import dataclass, replace
from functools import cache

import mujoco
import numpy as np

from sim.cameras import BACKEND, GLCamera
from sim.human_hand import SKINS, Grip, Hand, HandLook, posture, rotation_of
from sim.rendering import apt_line
from vla.errors import UnderstudyError

FINGERS = ("thumb", "index", "middle", "ring", "little")
STEP = 0.0022
"""Edge of the grid's cells [m], and about that of the skin's triangles."""
_BLEND = 0.0035
"""Over which distance [m] neighbours melt into each other."""
_HOLD = 0.0018
"""How much farther [m] from a link its hold of the skin falls to 1 / e."""
_REST = np.array(
    [
        (0.0, 0.3, 0.35, 0.3),
        (0.16, 0.3, 0.4, 0.25),
        (0.02, 0.3, 0.4, 0.25),
        (-0.14, 0.3, 0.4, 0.25),
        (-0.3, 0.3, 0.4, 0.25),
    ]
)
"""Sideways and the three bends [rad] of each finger: spread, and between straight and a fist."""
_FLESH = (
    ("palm", (-0.036, 0.013, 0.000), (0.044, 0.028, 0.001), 0.0140, 0.0118),
    ("palm", (-0.036, 0.004, 0.001), (0.048, 0.008, 0.002), 0.0140, 0.0120),
    ("palm", (-0.036, -0.006, 0.001), (0.043, -0.012, 0.001), 0.0140, 0.0115),
    ("palm", (-0.036, -0.014, 0.000), (0.034, -0.031, -0.001), 0.0135, 0.0105),
    ("palm", (-0.032, -0.020, -0.007), (0.016, -0.031, -0.006), 0.0135, 0.0120),
    ("palm", (-0.032, 0.016, -0.007), (-0.016, 0.028, -0.008), 0.0140, 0.0150),
    ("palm", (-0.005, 0.020, -0.006), (0.026, 0.026, -0.002), 0.0120, 0.0100),
    ("thumb root", (0.0, 0.0, 0.0), (0.043, 0.0, 0.0), 0.0160, 0.0125),
    ("forearm", (0.0, 0.012, -0.01), (0.0, 0.015, 0.19), 0.0170, 0.0240),
    ("forearm", (0.0, -0.012, -0.01), (0.0, -0.015, 0.19), 0.0170, 0.0240),
)
"""Cones with round ends that the capsules lack: link, two places in its frame [m] and their radii, scale 1, right."""
TIPS = {"thumb": 0.0085, "index": 0.0070, "middle": 0.0070, "ring": 0.0070, "little": 0.0062}
"""Radii of the fingertips [m], of a hand of scale 1: each bone is as thin at its end as the next one begins."""
_WRIST = np.array([-0.048, 0.0, 0.0])

_PINCH = np.array([0.066, 0.020, -0.068])
"""Where the pads of thumb and index finger meet in the palm's frame [m]."""
_PINCH_PITCH, _PINCH_ASIDE = np.radians(25), np.radians(15)
"""How far the line from thumb to index finger points out of the back of the hand, and away from the thumb's side."""
_OPENINGS = np.linspace(0.0, 0.10, 11)
_LOOSE = np.array([(0.1, 0.3, 0.3, 0.3), (0.1, 0.8, 0.35, 0.2)])
"""Thumb and index finger where nothing else is asked of them [rad]."""
_FOLLOW = np.array([(0.8, -0.05, 0.05, 0.05, 0.05), (0.7, -0.15, 0.05, 0.05, 0.05), (0.6, -0.25, 0.05, 0.05, 0.05)])
"""The other three: a share of the index finger's angles, and what is added to them: straighter, and fanned out."""


@dataclass(frozen=True)
class Skin:
    """A surface on bones.

    ``vertices`` [V, 3] m in the rest pose and ``faces`` [F, 3], seen from outside counter-clockwise; ``bones``: names
    of B bodies, at ``places`` [B, 3] m and ``turns`` [B, 4] (wxyz) in the rest pose; ``weights`` [V, B]: rows sum to 1.
    """

    vertices: np.ndarray
    faces: np.ndarray
    bones: tuple[str, ...]
    places: np.ndarray
    turns: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class _Cones:
    """Cones with round ends: N of them, on ``bodies`` [N], between ``starts`` and ``ends`` [N, 3] m.

    ``radii`` [N, 2] m at the two. The first fifteen are the bones of the fingers, three for each.
    """

    bodies: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    radii: np.ndarray

    def distances(self, points: np.ndarray) -> np.ndarray:
        """How far points [M, 3] are from each surface [N, M] m, negative inside."""
        rows = []
        for start, end, (thick, thin) in zip(self.starts, self.ends, self.radii):
            axis = end - start
            part = np.clip((points - start) @ (axis / (axis @ axis)), 0, 1)
            off = points - start - part[:, None] * axis
            rows.append(np.sqrt(np.einsum("ij,ij->i", off, off)) - (thick + part * (thin - thick)))
        return np.array(rows)

    def union(self, points: np.ndarray) -> np.ndarray:
        """Distance [M] m to all together; a finger's own bones melt less, or its joints would swell."""
        apart = self.distances(points)
        fingers = [_smallest(apart[3 * finger : 3 * finger + 3], _BLEND / 4) for finger in range(5)]
        return _smallest(np.stack([*fingers, *apart[15:]]), _BLEND)

    def slope(self, points: np.ndarray, *, by: float = 1e-4) -> np.ndarray:
        """The gradient [M, 3] of `union`."""
        steps = by * np.eye(3)
        return np.stack([self.union(points + step) - self.union(points - step) for step in steps], axis=1) / (2 * by)


@dataclass
class SkinnedHand(Hand):
    """`sim.human_hand.Hand` whose skin is seen in place of its capsules, and which can pinch with thumb and index."""

    def add(self, spec: mujoco.MjSpec) -> None:
        """Put the hand, its forearm and its skin last in ``spec``."""
        super().add(spec)
        hidden = {"palm", "thenar", "forearm", *(f"{finger} {bone}" for finger in FINGERS for bone in range(3))}
        for geom in spec.geoms:
            if geom.name in hidden:
                geom.group = 3  # where cameras do not look
        skin = skin_of(self.look.side, self.look.scale)
        held = [np.flatnonzero(column) for column in skin.weights.T]
        spec.add_skin(
            name="hand",
            rgba=[*self.look.skin, 1.0],
            vert=skin.vertices.reshape(-1).astype(np.float32),
            face=skin.faces.reshape(-1).astype(np.int32),
            bodyname=list(skin.bones),
            bindpos=skin.places.reshape(-1).astype(np.float32),
            bindquat=skin.turns.reshape(-1).astype(np.float32),
            vertid=[rows.astype(np.int32) for rows in held],
            vertweight=[skin.weights[rows, bone].astype(np.float32) for bone, rows in enumerate(held)],
        )

    def show(self, data: mujoco.MjData, grip: Grip, shoulder: np.ndarray) -> np.ndarray:
        """As a `Hand` does."""
        angles, offset = posture(grip, self.look.scale)
        rotation = rotation_of(grip.angles)
        palm = grip.point - rotation @ (offset * [1, self.look.side, 1] * self.look.scale)
        return self.pose(data, palm, rotation, angles=angles, shoulder=shoulder)

    def pinch(
        self, data: mujoco.MjData, point: np.ndarray, turn: np.ndarray, *, opening: float, shoulder: np.ndarray
    ) -> np.ndarray:
        """Bring the middle between the pads of thumb and index finger to ``point`` [3]; the palm's pose [7].

        ``turn`` [3, 3]: x from the thumb's pad to the index finger's, z away from what is gripped, to where the wrist
        is; ``opening`` m between the pads.
        """
        mirror = np.array([1, self.look.side, 1])
        place, along = _PINCH * mirror, _pinch_axis() * mirror
        up = _WRIST - place - ((_WRIST - place) @ along) * along
        up /= np.linalg.norm(up)
        rotation = turn @ np.stack([along, np.cross(up, along), up])
        table, wide = _pinches(), min(opening / self.look.scale, _OPENINGS[-1])
        angles = np.array([np.interp(wide, _OPENINGS, column) for column in table.T])
        return self.pose(data, point - rotation @ place * self.look.scale, rotation, angles=angles, shoulder=shoulder)

    def pose(
        self, data: mujoco.MjData, palm: np.ndarray, rotation: np.ndarray, *, angles: np.ndarray, shoulder: np.ndarray
    ) -> np.ndarray:
        """Palm at ``palm`` [3] with ``rotation`` [3, 3], joints at ``angles`` [20] rad; the palm's pose [7].

        The forearm's roll is the palm's: its skin is not round.
        """
        data.qpos[self._joints] = angles
        wrist = palm + rotation @ _WRIST * self.look.scale
        back = (shoulder - wrist) / np.linalg.norm(shoulder - wrist)
        across = rotation[:, 1] - (rotation[:, 1] @ back) * back
        across /= np.linalg.norm(across)
        forearm = np.stack([np.cross(across, back), across, back], axis=1)
        for mocap, place, turn in zip(self._mocaps, (palm, wrist), (rotation, forearm)):
            data.mocap_pos[mocap] = place
            mujoco.mju_mat2Quat(data.mocap_quat[mocap], turn.reshape(-1))
        return np.concatenate([palm, data.mocap_quat[self._mocaps[0]]])


class SkinCamera(GLCamera):
    """A camera that sees skins; raises `UnderstudyError` where there is no OpenGL."""

    def __init__(self, model: mujoco.MjModel, name: str, *, height: int, width: int) -> None:
        if BACKEND == "none":
            raise UnderstudyError(
                "a hand's skin is drawn by OpenGL alone (rays do not see it), and no OpenGL library works on this "
                f"machine; install one: {apt_line()}"
            )
        super().__init__(model, name, height=height, width=width, nice=True)
        self._far = 0.9 * model.vis.map.zfar * model.stat.extent

    def depth(self, data: mujoco.MjData) -> np.ndarray:
        """The depth of `sim.cameras.Picture` [H, W] by itself, in a tenth of the time."""
        renderer = self._renderer(data)
        renderer.enable_depth_rendering()
        depth = renderer.render().copy()
        renderer.disable_depth_rendering()
        depth[depth > self._far] = np.inf
        return depth


@cache
def skin_of(side: int, scale: float) -> Skin:
    """The skin of a hand of this side and size."""
    if scale != 1.0:
        one = skin_of(side, 1.0)
        return replace(one, vertices=one.vertices * scale, places=one.places * scale)
    model, data = _resting(side)
    bones = tuple(model.body(number).name for number in range(1, model.nbody))
    places, turns = data.xpos[1:].copy(), data.xquat[1:].copy()
    if side < 0:
        right = skin_of(1, 1.0)
        return Skin(right.vertices * [1, -1, 1], right.faces[:, ::-1], bones, places, turns, right.weights)
    cones = _cones(model, data)
    vertices, faces = _cut(cones)
    return Skin(vertices, faces, bones, places, turns, _weights(model, cones, vertices))


def _resting(side: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A hand of capsules by itself in the rest pose, palm down at the origin."""
    spec = mujoco.MjSpec()
    look = HandLook(side, 1.0, SKINS[0], SKINS[0])
    Hand(look).add(spec)
    model = spec.compile()
    data = mujoco.MjData(model)
    hand = SkinnedHand(look)
    hand.bind(model)
    hand.pose(data, np.zeros(3), np.eye(3), angles=_REST.reshape(-1), shoulder=np.array([-1.0, 0, 0]))
    mujoco.mj_kinematics(model, data)
    return model, data


def _cones(model: mujoco.MjModel, data: mujoco.MjData) -> _Cones:
    """The fingers' capsules, tapered, and `_FLESH`, at rest."""
    rows = []
    for finger in FINGERS:
        radii = [model.geom(f"{finger} {bone}").size[0] for bone in range(3)] + [TIPS[finger]]
        for bone in range(3):
            geom = model.geom(f"{finger} {bone}")
            rows.append((int(geom.bodyid[0]), (0, 0, 0), (2 * geom.size[1], 0, 0), *radii[bone : bone + 2]))
    rows += [(model.body(name).id, *cone) for name, *cone in _FLESH]
    bodies = np.array([row[0] for row in rows])
    ends = [
        data.xpos[bodies] + np.einsum("nij,nj->ni", data.xmat[bodies].reshape(-1, 3, 3), [row[end] for row in rows])
        for end in (1, 2)
    ]
    return _Cones(bodies, *ends, np.array([row[3:] for row in rows]))


def _smallest(values: np.ndarray, blend: float) -> np.ndarray:
    """The smooth minimum [M] over rows [N, M], which is below the true one where two are close."""
    least = values.min(axis=0)
    return least - blend * np.log(np.exp((least - values) / blend).sum(axis=0))


def _cut(cones: _Cones) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] m and faces [F, 3] of the smooth union."""
    ends, margin = np.concatenate([cones.starts, cones.ends]), cones.radii.max() + 3 * STEP
    low = ends.min(axis=0) - margin
    counts = np.ceil((ends.max(axis=0) + margin - low) / STEP).astype(int)
    grid = low + STEP * np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 3)
    vertices, faces = surface(cones.union(grid).reshape(counts))
    vertices = low + STEP * vertices
    for _ in range(2):  # from the middles of the cells onto the surface itself
        slope = cones.slope(vertices)
        vertices = vertices - (cones.union(vertices) / np.einsum("ij,ij->i", slope, slope))[:, None] * slope
    return vertices, faces


def surface(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a field [I, J, K] on a grid changes its sign, by surface nets: negative is inside, the rim is not.

    Vertices [V, 3] in cells, one in each cell that the surface goes through, in the middle of where it crosses the
    cell's edges; faces [F, 3], two for each edge that is crossed, between the four cells around it.
    """
    sums, crossings, quads = np.zeros((values.size, 3)), np.zeros(values.size), []
    ahead = np.eye(3, dtype=int)
    for axis in range(3):
        along, left, right = ahead[axis], ahead[(axis + 1) % 3], ahead[(axis + 2) % 3]
        nodes = np.argwhere(np.diff((values < 0).astype(np.int8), axis=axis) != 0)
        first, second = values[tuple(nodes.T)], values[tuple((nodes + along).T)]
        places = nodes + (first / (first - second))[:, None] * along
        around = [nodes - left - right, nodes - right, nodes, nodes - left]
        cells = np.stack([np.ravel_multi_index(tuple(cell.T), values.shape) for cell in around], axis=1)
        for corner in cells.T:
            np.add.at(sums, corner, places)
            np.add.at(crossings, corner, 1)
        quads.append(np.where((first < 0)[:, None], cells, cells[:, ::-1]))
    corners = np.concatenate(quads)
    used, numbers = np.unique(corners, return_inverse=True)
    corners = numbers.reshape(corners.shape)
    faces = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
    return sums[used] / crossings[used, None], faces


def _weights(model: mujoco.MjModel, cones: _Cones, points: np.ndarray) -> np.ndarray:
    """How much each body holds of each point [N, bodies but the world]: the nearest, its parent and its children."""
    apart = cones.distances(points)
    by_body = np.stack([apart[cones.bodies == body].min(axis=0) for body in range(1, model.nbody)], axis=1)
    parents = model.body_parentid[1:] - 1
    parents[model.body("forearm").id - 1] = model.body("palm").id - 1
    bones = np.arange(len(parents))
    near = (bones[:, None] == bones) | (parents[:, None] == bones) | (parents[None] == bones[:, None])
    held = np.exp((by_body.min(axis=1, keepdims=True) - by_body) / _HOLD) * near[by_body.argmin(axis=1)]
    held[held < 0.01] = 0
    return held / held.sum(axis=1, keepdims=True)


def _pinch_axis() -> np.ndarray:
    """From the thumb's pad to the index finger's [3], in the palm's frame of a right hand."""
    (cp, ca), (sp, sa) = np.cos((_PINCH_PITCH, _PINCH_ASIDE)), np.sin((_PINCH_PITCH, _PINCH_ASIDE))
    return np.array([cp * ca, -sa, sp * ca])


@cache
def _pinches() -> np.ndarray:
    """Angles of the joints [len(_OPENINGS), 20] at which the pads are so far apart, by damped least squares."""
    model, data = _resting(1)
    tips = [model.site(f"keypoint {number}").id for number in (4, 8)]
    angles, jacobian, rows = _LOOSE.reshape(-1).copy(), np.zeros((6, model.nv)), []
    for opening in _OPENINGS:
        reach = opening / 2 + np.array([TIPS["thumb"], TIPS["index"]])
        wanted = _PINCH + (reach * [-1, 1])[:, None] * _pinch_axis()
        for _ in range(200):
            data.qpos[:8] = angles
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            for number, tip in enumerate(tips):
                mujoco.mj_jacSite(model, data, jacobian[3 * number : 3 * number + 3], None, tip)
            error, moved = (wanted - data.site_xpos[tips]).reshape(-1), jacobian[:, :8]
            home = 1e-6 * (_LOOSE.reshape(-1) - angles)
            step = np.linalg.solve(moved.T @ moved + 5e-4 * np.eye(8), moved.T @ error + home)
            angles += np.clip(step, -0.2, 0.2)
        rows.append([*angles, *(_FOLLOW[:, :1] * angles[4:] + _FOLLOW[:, 1:]).reshape(-1)])
    return np.array(rows)
