"""A person drove a Franka: where its tool was, taken for a hand, is followed by our arm.

The recording holds joints, and no track of the hand itself (what it calls ``mocap`` stays where it is); so the tool's
own way stands for the hand: thumb and index finger where the gripper's fingers were.
"""

import numpy as np
from retarget_made_hands import hand_points

from robot_bridge.arms.arm import make_arm
from robot_bridge.retarget.inverse import solve
from robot_bridge.retarget.lifting import HandPath
from robot_bridge.retarget.linkage import linkage_of
from robot_bridge.retarget.pacing import arm_only, paced
from robot_bridge.retarget.tool_path import ToolPathConfig, tool_path
from sim.arm import make_kinematics
from sim.scenes import Setting

RECORDED_HZ, FILMED_HZ = 500, 50


def test_our_arm_follows_the_recorded_one(samples):
    recorded = np.load(samples / "teleop/franka_teleop.npz", allow_pickle=False)["qpos"]
    assert np.abs(np.diff(recorded[:, :7], axis=0)).max() < 0.01  # 2 ms apart
    kept = recorded[:: RECORDED_HZ // FILMED_HZ]
    kinematics, stamps = make_kinematics(Setting.of("tabletop")), np.arange(len(kept)) / FILMED_HZ
    poses = [kinematics.forward(np.append(joints[:7], 1.0)) for joints in kept]
    there = np.stack([pose.position for pose in poses])
    turns = np.stack([matrix(pose.quaternion) for pose in poses])
    still = hand_points(np.zeros(3), 0.06) @ np.diag([1.0, -1.0, -1.0])  # fingers along the tool's z
    points = np.einsum("tij,nj->tni", turns, still) + there[:, None]
    path = tool_path(HandPath(stamps, points, np.zeros(len(stamps)), "right", "stereo"), ToolPathConfig(turning="palm"))
    arm = make_arm("sim")
    solved = solve(linkage_of(arm), path, arm_only(arm.spec))
    ours = np.stack([kinematics.forward(np.append(joints, 1.0)).position for joints in solved.joints])
    apart = 1e3 * np.linalg.norm(ours - there, axis=1)
    assert np.median(apart) < 5.0
    assert np.quantile(apart, 0.95) < 15.0
    sent = paced(path, solved, arm.spec, rate_hz=50.0)
    assert sent.slowed < 6.0  # the person was quicker than an arm of these limits


def matrix(quaternion):
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
