"""Two cameras with the same calls: one that needs no OpenGL at all, and MuJoCo's own.

    camera = make_camera(model, "front", height=64, width=64, renderer="ray")
    mujoco.mj_forward(model, data)
    image = camera.render(data)              # [64, 64, 3] uint8
    picture = camera.picture(data)           # colour, depth and segmentation of the same instant

Both read the model anew at each picture, so colours, lights and camera poses may be randomised at run time (a pose
or a light that was moved in the model counts from the next ``mj_forward`` on). Both show geoms and sites of groups
0…2 and hide the rest, which is where models keep their collision shapes.

The ray camera sends one ray per pixel through MuJoCo's own collision tree and shades the hits in float32: the same
picture on every machine, no window system, no drivers. It draws flat materials without anti-aliasing, and costs
with the pixels; OpenGL wins above about 128 pixels, and on scenes made of meshes.
"""

import atexit
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sim.rendering import apt_line, choose_backend
from vla.errors import UnderstudyError, unknown

BACKEND = choose_backend()
import mujoco  # noqa: E402  the backend must be chosen first

from sim import shading  # noqa: E402

Renderer = Literal["ray", "gl"]
SKY = (0.62, 0.75, 0.90)
"""Colour of a pixel whose ray hits nothing."""

_HAS_NORMALS = "normal:" in (mujoco.mj_multiRay.__doc__ or "")
"""From MuJoCo 3.5 on rays return surface normals, and the call takes one more argument."""

_VISIBLE = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
_FAR = 1e6


@dataclass(frozen=True)
class Picture:
    """One instant through one camera; row 0 is the top, column 0 the left.

    ``color`` [H, W, 3] uint8; ``depth`` [H, W] float32, metres along the camera's axis, infinite in the sky;
    ``segmentation`` [H, W] int32, the geom's id, -1 for the sky and for sites.
    """

    color: np.ndarray
    depth: np.ndarray
    segmentation: np.ndarray


@dataclass(frozen=True)
class Balls:
    """Spheres that cameras see and nothing else does: ``position`` [S, 3] and ``radius`` [S] in metres, ``rgb`` [S, 3].

    They are of the picture, not of the model, whose numbers (and with them whatever is drawn at random by their count)
    stay as they are.
    """

    position: np.ndarray
    radius: np.ndarray
    rgb: np.ndarray

    def add_to(self, scene: mujoco.MjvScene) -> None:
        """Put them into what OpenGL is about to draw."""
        for position, radius, rgb in zip(self.position, self.radius, self.rgb, strict=True):
            scene.ngeom += 1
            kind, facing = mujoco.mjtGeom.mjGEOM_SPHERE, np.eye(3).reshape(-1)
            size, color = np.full(3, radius), np.append(rgb, 1.0).astype(np.float32)
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom - 1], kind, size, position, facing, color)


_BALLS: "weakref.WeakKeyDictionary[mujoco.MjModel, Balls]" = weakref.WeakKeyDictionary()


@contextmanager
def balls_in(model: mujoco.MjModel, balls: Balls) -> Iterator[None]:
    """For a while every camera on ``model`` sees them as well."""
    _BALLS[model] = balls
    try:
        yield
    finally:
        del _BALLS[model]


class Camera(Protocol):
    """What `RayCamera` and `GLCamera` have in common."""

    height: int
    width: int

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """The colours alone, [H, W, 3] uint8."""
        ...

    def picture(self, data: mujoco.MjData) -> Picture:
        """Colours, depth and segmentation."""
        ...

    def close(self) -> None:
        """Free what the camera holds; it cannot be used afterwards."""
        ...


def make_camera(
    model: mujoco.MjModel, name: str | int, *, height: int, width: int, renderer: Renderer, sites: bool = False
) -> Camera:
    """The camera ``name`` of ``model``, seen by rays or through OpenGL; ``sites``: draw the markers too."""
    if renderer not in ("ray", "gl"):
        raise unknown("renderer", renderer, ("ray", "gl"))
    kind = RayCamera if renderer == "ray" else GLCamera
    return kind(model, name, height=height, width=width, sites=sites)


def camera_id(model: mujoco.MjModel, camera: str | int) -> int:
    """The id of a camera of ``model``; raises `UnderstudyError` naming the nearest one."""
    names = [model.camera(i).name for i in range(model.ncam)]
    if isinstance(camera, int):
        if not 0 <= camera < model.ncam:
            raise unknown("camera", str(camera), [str(i) for i in range(model.ncam)])
        return camera
    if camera not in names:
        raise unknown("camera", camera, names)
    return names.index(camera)


class RayCamera:
    """A camera without OpenGL: `mj_multiRay`, then Lambert shading.

    Light: the headlight and every active light (as directional or point lights, without spots or shadows). Colour:
    MuJoCo's own rule, the geom's rgba where it was set, its material's otherwise, times the mean of the texture; a
    plane with a checker texture is chequered. Geoms of alpha 0 are not seen, other alphas are opaque. Of the sites,
    when asked for, only spheres are drawn.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: str | int,
        *,
        height: int,
        width: int,
        background: tuple[float, float, float] = SKY,
        sites: bool = False,
    ) -> None:
        self.height, self.width = height, width
        self._model, self._id, self._sites = model, camera_id(model, camera), sites
        self._background = (255 * np.asarray(background)).astype(np.uint8)
        self._tints = shading.texture_means(model)
        self._checkers = shading.checkered_planes(model)
        rays = height * width
        self._fovy = float("nan")
        self._rays = np.empty((rays, 3))
        self._world = np.empty((rays, 3))
        self._distance = np.empty(rays)
        self._geom = np.empty(rays, dtype=np.int32)
        self._normal = np.empty((rays, 3)) if _HAS_NORMALS else None

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """The colours alone, [H, W, 3] uint8."""
        self._cast(data)
        return self._shade(data)

    def picture(self, data: mujoco.MjData) -> Picture:
        """Colours, depth and segmentation."""
        self._cast(data)
        color = self._shade(data)
        shape = (self.height, self.width)
        depth = np.where(self._distance < 0, np.inf, self._distance * -self._rays[:, 2]).astype(np.float32)
        return Picture(color, depth.reshape(shape), self._geom.reshape(shape).copy())

    def close(self) -> None:
        """Nothing to free."""

    def _cast(self, data: mujoco.MjData) -> None:
        """Fill distance and geom (and normal) of every ray; -1 where nothing is hit."""
        fovy = float(self._model.cam_fovy[self._id])
        if fovy != self._fovy:
            self._fovy, self._rays = fovy, shading.pixel_rays(self.height, self.width, fovy)
        np.matmul(self._rays, data.cam_xmat[self._id].reshape(3, 3).T, out=self._world)
        mujoco.mj_multiRay(
            m=self._model,
            d=data,
            pnt=data.cam_xpos[self._id],
            vec=self._world.reshape(-1),
            geomgroup=_VISIBLE,
            flg_static=1,
            bodyexclude=-1,
            geomid=self._geom,
            dist=self._distance,
            nray=len(self._rays),
            cutoff=_FAR,
            **({"normal": self._normal.reshape(-1)} if self._normal is not None else {}),
        )

    def _shade(self, data: mujoco.MjData) -> np.ndarray:
        rays = np.ascontiguousarray(self._world.T, dtype=np.float32)  # (3, N), as everything below
        points = rays * self._distance.astype(np.float32)  # as seen from the camera's centre
        origin = data.cam_xpos[self._id]
        base = np.take(shading.geom_rgb(self._model, self._tints), self._geom, axis=1, mode="wrap")
        if self._normal is None:
            normal = shading.normals(self._model, data, self._geom.reshape(self.height, self.width), points, origin)
        else:
            normal = np.ascontiguousarray(self._normal.T, dtype=np.float32)
        for plane in self._checkers:
            shading.paint_checker(base, plane, self._geom, points, data, origin)
        seen = shading.Seen(rays, points, normal, base, self._distance, self._geom)
        if self._sites:
            shading.draw_sites(self._model, data, seen, origin)
        if balls := _BALLS.get(self._model):
            shading.draw_balls(balls.position, balls.radius, balls.rgb, seen, origin)
        base *= shading.light(self._model, data, rays, points, normal, origin)
        base *= 255
        image = np.ascontiguousarray(np.minimum(base, 255, out=base).astype(np.uint8).T)
        image[self._distance < 0] = self._background
        return image.reshape(self.height, self.width, 3)


class GLCamera:
    """A camera through OpenGL, quick by default: no shadows, no reflections, no anti-aliasing.

    ``nice`` gives all three (on a software rasteriser about forty times slower: for films, not for policies). The model
    is left as it was found. Cameras of one size on one model share an OpenGL context, which is freed with the last
    of them, by `close` or when collected.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: str | int,
        *,
        height: int,
        width: int,
        sites: bool = False,
        nice: bool = False,
    ) -> None:
        if BACKEND == "none":
            raise UnderstudyError(
                f"no OpenGL library works on this machine; use renderer='ray', or install one: {apt_line()}"
            )
        self.height, self.width = height, width
        self._model, self._id = model, camera_id(model, camera)
        key = (id(model), height, width, nice)
        self._screen: _Screen | None = _SCREENS.get(key) or _Screen(model, height, width, nice=nice)
        _SCREENS[key] = self._screen
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = _VISIBLE if sites else 0

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """The colours alone, [H, W, 3] uint8."""
        return self._renderer(data).render()

    def picture(self, data: mujoco.MjData) -> Picture:
        """Colours, depth and segmentation, in three passes."""
        renderer = self._renderer(data)
        color = renderer.render()
        renderer.enable_depth_rendering()
        depth = renderer.render()
        renderer.enable_segmentation_rendering()
        ids, kinds = np.moveaxis(renderer.render(), -1, 0)
        renderer.disable_segmentation_rendering()
        depth = np.where(kinds < 0, np.inf, depth).astype(np.float32)
        return Picture(color, depth, np.where(kinds == int(mujoco.mjtObj.mjOBJ_GEOM), ids, -1).astype(np.int32))

    def close(self) -> None:
        """Let go of the OpenGL context."""
        self._screen = None

    def _renderer(self, data: mujoco.MjData) -> mujoco.Renderer:
        if self._screen is None:
            raise UnderstudyError("this camera has been closed; make a new one")
        renderer = self._screen.renderer
        renderer.update_scene(data, self._id, self._option)
        if balls := _BALLS.get(self._model):
            balls.add_to(renderer.scene)
        return renderer


class _Screen:
    """An OpenGL context with one model loaded into it."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int, *, nice: bool) -> None:
        self.renderer = _offscreen(model, height, width, nice=nice)
        self._free = weakref.finalize(self, _free, self.renderer)
        # Not weakref's own hook: only what is registered after the context was made runs before MuJoCo shuts EGL down.
        self._free.atexit = False
        atexit.register(self._free)


_SCREENS: weakref.WeakValueDictionary[tuple[int, int, int, bool], _Screen] = weakref.WeakValueDictionary()


def _free(renderer: mujoco.Renderer) -> None:
    """Free a context from within itself: from within another one, it would take that one's buffers with it."""
    renderer._gl_context.make_current()
    renderer.close()


def _offscreen(model: mujoco.MjModel, height: int, width: int, *, nice: bool) -> mujoco.Renderer:
    """A renderer whose buffer has just this size; the model's own wishes are put back."""
    quality, size = model.vis.quality, model.vis.global_
    before = quality.offsamples, quality.shadowsize, size.offheight, size.offwidth
    size.offheight, size.offwidth = height, width
    # a shadow map that nobody draws into would still take 64 MB
    quality.offsamples, quality.shadowsize = (4, quality.shadowsize) if nice else (0, 0)
    try:
        renderer = mujoco.Renderer(model, height, width)
    finally:
        quality.offsamples, quality.shadowsize, size.offheight, size.offwidth = before
    if not nice:
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
    return renderer
