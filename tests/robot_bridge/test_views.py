"""Live views: the calls are those of the real package, which writes to memory here instead of opening a window."""

import numpy as np
import rerun
from robot_bridge_rig import JOINT_POLICY

from robot_bridge.plan import Made, Plan
from robot_bridge.views import Views
from sim.world import SPEC


class Standing:
    """What `Views` wants of a run."""

    def __init__(self, folder):
        self.plan = Plan(folder, Made("sim"), Made(""), JOINT_POLICY, SPEC)
        self.rings = self.plan.rings(make=True)


def test_what_is_seen_and_done_is_shown(tmp_path):
    run = Standing(tmp_path)
    views = Views(run, spawn=False)
    memory = rerun.memory_recording()
    before = memory.num_msgs()
    run.rings["seen"].write(stamp_ns=10**9, image_front=np.full((16, 16, 3), 9, np.uint8))
    for tick in range(20):
        run.rings["ticks"].write(stamp_ns=10**9 + tick, state=2, sent=np.ones(8))
    run.rings["events"].write(stamp_ns=10**9, code=b"jump", message=b"too far")
    views.show()
    assert memory.num_msgs() > before
    seen = memory.num_msgs()
    views.show()  # nothing is new
    assert memory.num_msgs() == seen
