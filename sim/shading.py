"""From rays that hit something to colours: float32 arrays, component first, (3, N) for the N pixels.

Points are relative to the camera's centre, with the world's axes, so that float32 is exact enough anywhere.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

_SHRINK = 1e-4
"""How far below its surface [m] the core of a box lies; see `_cores`."""

_UNSET = np.array([0.5, 0.5, 0.5, 1.0], dtype=np.float32)
"""The rgba MuJoCo gives to what was given none: such a geom wears its material's colour."""

_TEXTURE_ROLE = int(mujoco.mjtTextureRole.mjTEXROLE_RGB)
_TYPE = mujoco.mjtGeom
_CORELESS = (_TYPE.mjGEOM_MESH, _TYPE.mjGEOM_HFIELD, _TYPE.mjGEOM_SDF)


def pixel_rays(height: int, width: int, fovy: float) -> np.ndarray:
    """Unit vectors [H*W, 3] through the pixels' centres in the camera's frame: x right, y up, looking along -z.

    ``fovy``: the vertical field of view [degrees].
    """
    scale = 2 * np.tan(np.radians(fovy) / 2) / height
    x = (np.arange(width) + 0.5 - width / 2) * scale
    y = (height / 2 - np.arange(height) - 0.5) * scale
    rays = np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), axis=-1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def geom_rgb(model: mujoco.MjModel, tints: np.ndarray) -> np.ndarray:
    """The flat colour of each geom (3, G)."""
    return _rgb(model, model.geom_rgba, model.geom_matid, tints)


def _rgb(model: mujoco.MjModel, rgba: np.ndarray, material: np.ndarray, tints: np.ndarray) -> np.ndarray:
    rgb = rgba[:, :3].copy()
    if model.nmat:
        dressed = (material >= 0) & (rgba == _UNSET).all(axis=1)
        rgb[dressed] = model.mat_rgba[material[dressed], :3]
        rgb *= np.where(material[:, None] >= 0, tints[material], 1)
    return np.ascontiguousarray(rgb.T)


def texture_means(model: mujoco.MjModel) -> np.ndarray:
    """What the texture of each material does to its colour on average, (M, 3) in 0…1."""
    means = np.ones((model.nmat, 3), dtype=np.float32)
    for material in range(model.nmat):
        texels = _texels(model, material)
        if texels is not None:
            means[material] = texels.mean(axis=(0, 1)) / 255
    return means


def _texels(model: mujoco.MjModel, material: int) -> np.ndarray | None:
    texture = int(model.mat_texid[material, _TEXTURE_ROLE])
    if texture < 0:
        return None
    shape = (int(model.tex_height[texture]), int(model.tex_width[texture]), int(model.tex_nchannel[texture]))
    start = int(model.tex_adr[texture])
    return model.tex_data[start : start + int(np.prod(shape))].reshape(shape)[:, :, :3]


@dataclass(frozen=True)
class CheckeredPlane:
    """A plane geom with its two tints relative to their mean (2, 3), and the fields per metre along its x and y."""

    geom: int
    tints: np.ndarray
    fields_per_metre: np.ndarray


def checkered_planes(model: mujoco.MjModel) -> list[CheckeredPlane]:
    """The planes whose material has a checker texture."""
    planes = []
    for geom in np.flatnonzero(model.geom_type == _TYPE.mjGEOM_PLANE):
        material = int(model.geom_matid[geom])
        texels = _texels(model, material) if material >= 0 else None
        colors = _checker_colors(texels) if texels is not None else None
        if colors is None:
            continue
        half = model.geom_size[geom, :2]
        per_metre = model.mat_texrepeat[material].astype(np.float32)
        if not model.mat_texuniform[material]:
            per_metre = per_metre / np.where(half > 0, half, 1)
        tints = (colors / np.maximum(texels.mean(axis=(0, 1)), 1)).astype(np.float32)
        planes.append(CheckeredPlane(int(geom), tints, per_metre))
    return planes


def _checker_colors(texels: np.ndarray) -> np.ndarray | None:
    """The two colours (2, 3) of a 2 x 2 checker, first the one of the field at +x, +y; ``None`` for other textures."""
    rows, columns = texels.shape[0] // 2, texels.shape[1] // 2
    if not rows or not columns:
        return None
    quarters = [texels[:rows, :columns], texels[:rows, columns:], texels[rows:, columns:], texels[rows:, :columns]]
    a, b, c, d = (np.median(quarter.reshape(-1, 3), axis=0) for quarter in quarters)
    uniform = (quarters[0] == a).all(axis=-1).mean() > 0.7
    return np.stack([b, a]) if uniform and (a == c).all() and (b == d).all() and (a != b).any() else None


def paint_checker(
    base: np.ndarray,
    plane: CheckeredPlane,
    ids: np.ndarray,
    points: np.ndarray,
    data: mujoco.MjData,
    origin: np.ndarray,
) -> None:
    """Tint the pixels of ``plane`` in ``base`` (3, N), in place."""
    pixels = np.flatnonzero(ids == plane.geom)
    axes = data.geom_xmat[plane.geom].reshape(3, 3)[:, :2].T.astype(np.float32)
    center = (origin - data.geom_xpos[plane.geom]).astype(np.float32)
    across = axes @ (points[:, pixels] + center[:, None])
    odd = np.floor(across * plane.fields_per_metre[:, None]).sum(axis=0).astype(np.int32) & 1
    base[:, pixels] *= plane.tints[odd].T


def normals(
    model: mujoco.MjModel, data: mujoco.MjData, ids: np.ndarray, points: np.ndarray, origin: np.ndarray
) -> np.ndarray:
    """Unit surface normals (3, N) that face the camera, for MuJoCo without normals of its own.

    ``ids`` [H, W]: geom of each pixel. Exact for plane, sphere, capsule, ellipsoid, cylinder and box; for meshes and
    height fields from the differences between neighbouring pixels.
    """
    table = np.concatenate(
        [data.geom_xmat, data.geom_xpos - origin, *_cores(model)], axis=1, dtype=np.float32, casting="same_kind"
    )
    rows = np.ascontiguousarray(np.take(table, ids.reshape(-1), axis=0, mode="wrap").T)  # (22, N)
    rotation = rows[:9].reshape(3, 3, -1)
    low, high, weight, cap = rows[12:15], rows[15:18], rows[18:21], rows[21]
    local = (rotation * (points - rows[9:12])[:, None]).sum(axis=0)
    outward = (local - np.minimum(np.maximum(local, low), high)) * weight
    on_cap = np.abs(local[2]) > cap
    outward[:2] *= ~on_cap
    outward[2] = np.where(on_cap, local[2], outward[2])
    normal = (rotation * outward).sum(axis=1)
    coreless = np.isin(model.geom_type, _CORELESS)
    if coreless.any():
        rough = coreless[ids.reshape(-1)] & (ids.reshape(-1) >= 0)
        if rough.any():
            normal[:, rough] = _normals_from_neighbours(points.reshape(3, *ids.shape))[:, rough]
    normal /= np.sqrt((normal * normal).sum(axis=0)) + 1e-12
    normal *= np.where((normal * points).sum(axis=0) > 0, np.float32(-1), np.float32(1))
    return normal


def _cores(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per geom: the box ``low`` … ``high`` (G, 3) that its normals point away from, their weights, and its cap (G, 1).

    A sphere's core is its centre, a capsule's its segment, a box's the box a little smaller, a plane's is one metre
    below it. An ellipsoid also weighs the axes. Beyond ``cap`` along z a cylinder is flat (infinite for the others).
    """
    kind, size = model.geom_type, model.geom_size
    high = np.zeros_like(size)
    box, plane = kind == _TYPE.mjGEOM_BOX, kind == _TYPE.mjGEOM_PLANE
    ellipsoid, cylinder = kind == _TYPE.mjGEOM_ELLIPSOID, kind == _TYPE.mjGEOM_CYLINDER
    long = cylinder | (kind == _TYPE.mjGEOM_CAPSULE)
    high[box] = size[box] - _SHRINK
    high[long, 2] = size[long, 1]
    low = -high
    low[plane], high[plane] = (-np.inf, -np.inf, -1), (np.inf, np.inf, -1)
    weight = np.ones_like(size)
    weight[ellipsoid] = (size[ellipsoid].min(axis=1, keepdims=True) / size[ellipsoid]) ** 2
    cap = np.where(cylinder, size[:, 1] - _SHRINK, np.inf)
    return low, high, weight, cap[:, None]


def _normals_from_neighbours(points: np.ndarray) -> np.ndarray:
    """Normals (3, N), of any length and sign, from points (3, H, W): the nearer of the two neighbours on each axis."""
    across = _nearer_difference(points, axis=2)
    down = _nearer_difference(points, axis=1)
    return np.cross(across, down, axis=0).reshape(3, -1)


def _nearer_difference(points: np.ndarray, axis: int) -> np.ndarray:
    step = np.diff(points, axis=axis)
    edge = np.take(step, [0], axis=axis), np.take(step, [-1], axis=axis)
    before, after = np.concatenate([edge[0], step], axis=axis), np.concatenate([step, edge[1]], axis=axis)
    return np.where((before * before).sum(axis=0) < (after * after).sum(axis=0), before, after)


def light(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    rays: np.ndarray,
    points: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
) -> np.ndarray:
    """The light (3, N) that a white surface returns: the headlight's, then every active light's, without shadows."""
    head = model.vis.headlight
    ambient, total = np.zeros((3, 1), dtype=np.float32), np.zeros_like(normal)
    if head.active:
        ambient += head.ambient[:, None].astype(np.float32)
        total += head.diffuse[:, None].astype(np.float32) * np.abs((normal * rays).sum(axis=0))
    directional = _directional(model)
    for i in np.flatnonzero(model.light_active):
        ambient += model.light_ambient[i][:, None]
        if directional[i]:
            facing = -data.light_xdir[i].astype(np.float32) @ normal
        else:
            towards = (data.light_xpos[i] - origin).astype(np.float32)[:, None] - points
            facing = (towards * normal).sum(axis=0) / np.sqrt((towards * towards).sum(axis=0))
        total += model.light_diffuse[i][:, None] * np.maximum(facing, 0)
    return total + ambient


def _directional(model: mujoco.MjModel) -> np.ndarray:
    """Which lights are directional; newer versions of MuJoCo say so by a type."""
    if hasattr(model, "light_directional"):
        return model.light_directional.astype(bool)
    return model.light_type == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL


@dataclass(frozen=True)
class Seen:
    """What the rays have met so far, to be overwritten in place: arrays (3, N), ``distance`` and ``geom`` (N,)."""

    rays: np.ndarray
    points: np.ndarray
    normal: np.ndarray
    base: np.ndarray
    distance: np.ndarray
    geom: np.ndarray


def draw_sites(model: mujoco.MjModel, data: mujoco.MjData, seen: Seen, origin: np.ndarray) -> None:
    """Put the spheres among the visible sites into the picture, where nothing stands before them."""
    shown = (model.site_type == _TYPE.mjGEOM_SPHERE) & (model.site_group < 3) & (model.site_rgba[:, 3] > 0)
    sites = np.flatnonzero(shown)
    draw_balls(data.site_xpos[sites], model.site_size[sites, 0], model.site_rgba[sites, :3], seen, origin)


def draw_balls(position: np.ndarray, size: np.ndarray, rgb: np.ndarray, seen: Seen, origin: np.ndarray) -> None:
    """Put spheres at ``position`` (S, 3), of radii ``size`` (S,), into the picture where nothing stands before them."""
    center = (position - origin).astype(np.float32)  # (S, 3)
    radius = size.astype(np.float32)
    along = center @ seen.rays  # (S, N): where each ray passes closest
    inside = along * along - ((center * center).sum(axis=1) - radius * radius)[:, None]
    which, pixel = np.nonzero(inside > 0)
    distance = along[which, pixel] - np.sqrt(inside[which, pixel])
    behind = (distance <= 0) | ((seen.distance[pixel] >= 0) & (distance >= seen.distance[pixel]))
    order = np.argsort(-distance[~behind], kind="stable")  # the nearest is written last, and stays
    which, pixel, distance = (array[~behind][order] for array in (which, pixel, distance))
    seen.distance[pixel], seen.geom[pixel] = distance, -1
    seen.points[:, pixel] = seen.rays[:, pixel] * distance
    seen.normal[:, pixel] = (seen.points[:, pixel] - center[which].T) / radius[which]
    seen.base[:, pixel] = rgb[which].T
