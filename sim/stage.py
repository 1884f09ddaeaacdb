"""The stage of a simulated run: a world that goes on by itself, an arm and cameras in it, and somebody who judges."""

from collections.abc import Mapping

from robot_bridge.plan import Made
from sim.scenes import TABLETOP
from sim.suite import TEST_SEEDS
from sim.tasks.tabletop import TASKS
from sim.tasks.tabletop_film import film_of
from sim.world import World
from vla.errors import UnderstudyError, unknown
from vla.types import CameraSpec, PolicySpec

OPTIONS = ("task", "first_scene", "model")


class SimStage:
    """`robot_bridge.stage.Stage` of MuJoCo; options: ``task``, ``first_scene`` (a test scene's number), ``model``.

    With a ``model`` of `sim.arm_models` that arm stands alone: nothing says what to do, and nobody judges.
    """

    def __init__(self, options: Mapping[str, object], spec: PolicySpec) -> None:
        for name in options:
            if name not in OPTIONS:
                raise unknown("option of the arm sim", name, OPTIONS)
        model = str(options.get("model", TABLETOP))
        self._task = str(options.get("task", "tabletop/touch-red-cube" if model == TABLETOP else ""))
        if model != TABLETOP and self._task:
            raise UnderstudyError(f"the arm {model} stands alone and has no tasks; {self._task!r} was asked for")
        if model == TABLETOP and film_of(self._task) is None and self._task not in TASKS:
            raise unknown("task", self._task, TASKS)
        self.instruction = TASKS[self._task].instruction if self._task in TASKS else ""
        self._first = int(str(options.get("first_scene", 0)))
        sizes = {(camera.height, camera.width) for camera in spec.cameras}
        if any(height != width for height, width in sizes) or len(sizes) > 1:
            raise UnderstudyError(f"the simulated cameras have one square size; the policy wants {sorted(sizes)}")
        names = tuple(camera.name for camera in spec.cameras)
        self._world = World(self._task, self._seed(0), model=model)
        self.arm = Made("sim", {"world": str(self._world.folder)})
        size = spec.cameras[0].height if spec.cameras else 64
        seeing = {"world": str(self._world.folder), "image_size": size, "cameras": names}
        self.cameras = Made("sim.arm:SimCameras", seeing)
        self.camera_specs: tuple[CameraSpec, ...] | None = spec.cameras

    @property
    def world(self) -> World:
        """The arm's physics: what it really did, and how to break it."""
        return self._world

    def begin(self, episode: int) -> None:
        """See `robot_bridge.stage.Stage`."""
        self._world.reset(self._task, self._seed(episode))

    def done(self) -> bool | None:
        """See `robot_bridge.stage.Stage`."""
        return self._world.success if self._task else None

    def close(self) -> None:
        """See `robot_bridge.stage.Stage`."""
        self._world.close()

    def _seed(self, episode: int) -> int:
        return TEST_SEEDS.start + self._first + episode
