"""The process that looks: at every step of the policy, one picture of each camera beside what the arm measured.

What a camera shows is not believed blindly. A picture that grew old, that does not change while the arm moves, or that
looks more like another camera's last picture than like its own, is a fault, and nobody is asked about it.
"""

import os
from collections.abc import Callable
from importlib import import_module
from time import monotonic_ns, sleep

import numpy as np
from numpy.typing import NDArray

from robot_bridge.arms.arm import Cameras, Joints
from robot_bridge.loop import make_sleep
from robot_bridge.plan import MESSAGE, Made, Plan
from robot_bridge.rings import text

OLD_NS = 300_000_000
"""Age of a picture after which the camera is taken for frozen."""
MOVED = 0.1
"""How far a joint has to move [rad] until a picture that is the same, bit for bit, is no longer believed."""
THUMB = 16

Image = NDArray[np.uint8]


def make_cameras(made: Made) -> Cameras:
    """The cameras of a plan."""
    module, _, attribute = made.target.partition(":")
    cameras: Cameras = getattr(import_module(module), attribute)(**made.options)
    return cameras


class Gaze:
    """Whether pictures can be believed; remembers the last ones."""

    def __init__(self) -> None:
        self._pictures: dict[str, Image] = {}
        self._joints: dict[str, Joints] = {}
        self._thumbs: dict[str, NDArray[np.float32]] = {}

    def trouble(self, images: dict[str, Image], joints: Joints, age_ns: int) -> str:
        """What is wrong with pictures taken with the arm at ``joints`` [D]; "" for nothing."""
        if age_ns > OLD_NS:
            return f"the newest picture is {1e-6 * age_ns:.0f} ms old"
        found = self._swapped(images)
        for name, image in images.items():
            if name not in self._pictures or not np.array_equal(image, self._pictures[name]):
                self._pictures[name], self._joints[name] = image, joints
            elif np.abs(joints - self._joints[name]).max(initial=0.0) > MOVED:
                found = found or f"the camera {name} shows the same picture although the arm has moved: is it frozen?"
        return found

    def _swapped(self, images: dict[str, Image]) -> str:
        thumbs = {name: thumbnail(image) for name, image in images.items()}
        if not self._thumbs:
            self._thumbs = thumbs
        for name, thumb in thumbs.items():
            own = float(np.abs(thumb - self._thumbs[name]).mean())
            others = [float(np.abs(thumb - last).mean()) for other, last in self._thumbs.items() if other != name]
            if others and 2 * min(others) < own:
                return f"the camera {name} shows what another one showed: have they been exchanged?"
        self._thumbs = thumbs
        return ""


def resized(image: Image, like: Image) -> Image:
    """``image`` at the size of ``like`` [H, W, 3]: what a policy does not see need not be sent."""
    if image.shape == like.shape:
        return image
    import cv2

    smaller: Image = cv2.resize(image, like.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    return smaller


def thumbnail(image: Image) -> NDArray[np.float32]:
    """Some of the pixels [16, 16, 3]: enough to tell two views apart."""
    rows, columns = (np.linspace(0, size - 1, THUMB).astype(int) for size in image.shape[:2])
    return image[rows][:, columns].astype(np.float32)


def see(plan: Plan, parent: int) -> None:
    """The process: looks until its parent has gone."""
    rings, cameras = plan.rings(), make_cameras(plan.cameras)
    cameras.connect()
    wait_until, gaze, due_ns = make_sleep(), Gaze(), 0
    gripper = plan.arm_spec.gripper
    hand = [] if gripper is None else [gripper.index]  # fingers may move unseen
    nothing = {
        f"image_{camera.name}": np.zeros((camera.height, camera.width, 3), "u1") for camera in plan.policy.cameras
    }
    try:
        while os.getppid() == parent:
            due_ns = max(due_ns + plan.step_ns, monotonic_ns() // plan.step_ns * plan.step_ns)
            wait_until(due_ns)
            state = rings["state"].newest()
            if state is None:
                sleep(0.01)
                continue
            images, stamp_ns, trouble = _look(cameras.read, gaze, np.delete(state["joints"], hand))
            seen = nothing | {name: resized(images[name[6:]], empty) for name, empty in nothing.items() if images}
            where = {"joints": state["joints"], "proprio": state["proprio"]}
            rings["seen"].write(stamp_ns=stamp_ns, trouble=text(trouble, MESSAGE), **where, **seen)
    finally:
        cameras.disconnect()


def _look(
    read: Callable[[], tuple[dict[str, Image], int]], gaze: Gaze, joints: Joints
) -> tuple[dict[str, Image], int, str]:
    try:
        images, stamp_ns = read()
    except Exception as error:  # noqa: BLE001 a camera that fails stops the arm, not this process
        return {}, monotonic_ns(), str(error)
    return images, stamp_ns, gaze.trouble(images, joints, monotonic_ns() - stamp_ns)
