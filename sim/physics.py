"""Whether a simulation is still one of the physical world."""

from typing import TYPE_CHECKING

import numpy as np

from sim.suite import Diverged

if TYPE_CHECKING:
    import mujoco


def check_physics(data: "mujoco.MjData", *, step: int) -> None:
    """Raise `Diverged` when positions, velocities or accelerations have become too large or no numbers since the reset.

    MuJoCo then begins again from the model's own state, without an error, and goes on; all that tells is a warning's
    counter (and ``MUJOCO_LOG.TXT``). An episode that goes on from there is another one.
    """
    import mujoco

    kinds = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
    for kind in kinds:
        if data.warning[kind].number:
            what = kind.name.removeprefix("mjWARN_")
            raise Diverged(f"{what} at step {step}, degree of freedom {data.warning[kind].lastinfo}")
    if not (np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()):
        raise Diverged(f"the state is no number at step {step}")
