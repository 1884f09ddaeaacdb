"""Arms of primitive shapes under the names, and in the folders, that MuJoCo Menagerie has for the real ones.

They are ours: joints, motors, sites and cameras are called as there, and lengths are like the arms'; nothing is copied.
"""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

UR_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
UR_LINKS = ("shoulder_link", "upper_arm_link", "forearm_link", "wrist_1_link", "wrist_2_link", "wrist_3_link")
UR_AXES = ("0 0 1", "0 1 0", "0 1 0", "0 1 0", "0 0 1", "0 1 0")
UR_PLACES = ("0 0 0.163", "0 0.138 0", "0 -0.131 0.425", "0 0 0.392", "0 0.127 0", "0 0 0.1")
SO_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
OLD_SO_JOINTS = ("Rotation", "Pitch", "Elbow", "Wrist_Pitch", "Wrist_Roll")
SO_AXES = ("0 0 1", "0 1 0", "0 1 0", "0 1 0", "0 0 1")
SO_PLACES = ("0 0 0.06", "0 0 0.05", "0 0 0.11", "0 0 0.13", "0 0 0.06")


def chain(links, joints, axes, places, *, length, inner, joint=""):
    """Bodies one within another, each with a hinge and a capsule; ``inner``: XML within the last."""
    opened = "".join(
        f'<body name="{link}" pos="{place}"><joint name="{name}" axis="{axis}" {joint}/>'
        f'<geom type="capsule" fromto="0 0 0 0 0 {length}" size="0.02" mass="0.5" contype="0" conaffinity="0"/>'
        for link, name, axis, place in zip(links, joints, axes, places, strict=True)
    )
    return opened + inner + "</body>" * len(links)


def ur5e():
    joints = [f"{name}_joint" for name in UR_JOINTS]
    body = chain(UR_LINKS, joints, UR_AXES, UR_PLACES, length=0.09, inner="", joint='range="-6.28319 6.28319"')
    motors = "".join(
        f'<general name="{name}" joint="{name}_joint" gaintype="fixed" biastype="affine" gainprm="2000" '
        f'biasprm="0 -2000 -400" forcerange="-150 150"/>'
        for name in UR_JOINTS
    )
    return f"""<mujoco model="ur5e"><compiler angle="radian" autolimits="true"/>
      <default><joint armature="0.1"/></default>
      <worldbody><body name="base">{body}</body></worldbody><actuator>{motors}</actuator></mujoco>"""


def so101():
    """With the site, the camera and the names of the newer file."""
    jaw = """<site name="gripperframe" pos="0 0 0.1"/><camera name="wrist_cam" pos="0 0.05 0.02" euler="2.6 0 0"/>
      <body name="moving_jaw" pos="0.02 0 0.03"><joint name="gripper" axis="0 1 0" range="-0.1745 1.7453"/>
      <geom type="box" size="0.005 0.01 0.03" pos="0 0 0.03" mass="0.02" contype="0" conaffinity="0"/></body>"""
    links = [f"{name}_link" for name in SO_JOINTS]
    body = chain(links, SO_JOINTS, SO_AXES, SO_PLACES, length=0.05, inner=jaw, joint='range="-2.8 2.8"')
    motors = "".join(
        f'<position name="{name}" joint="{name}" kp="50" dampratio="1" forcerange="-3 3"/>'
        for name in (*SO_JOINTS, "gripper")
    )
    return f"""<mujoco model="so101"><compiler angle="radian" autolimits="true"/>
      <default><joint armature="0.03" damping="0.5"/></default>
      <worldbody><light pos="0 0 2"/><geom name="ground" type="plane" size="1 1 0.1"/>
      <body name="base">{body}</body></worldbody><actuator>{motors}</actuator></mujoco>"""


def so100():
    """The older file's names, and a tool that is a body."""
    jaw = """<body name="Moving_Jaw" pos="0.02 0 0.03"><joint name="Jaw" axis="0 1 0" range="-0.2 2"/>
      <geom type="box" size="0.005 0.01 0.03" pos="0 0 0.03" mass="0.02" contype="0" conaffinity="0"/></body>"""
    links = ("Rotation_Pitch", "Upper_Arm", "Lower_Arm", "Wrist_Pitch_Roll", "Fixed_Jaw")
    body = chain(links, OLD_SO_JOINTS, SO_AXES, SO_PLACES, length=0.05, inner=jaw, joint='range="-3.15 3.15"')
    motors = "".join(f'<position name="{name}" joint="{name}" kp="50"/>' for name in (*OLD_SO_JOINTS, "Jaw"))
    return f"""<mujoco model="so_arm100"><compiler angle="radian" autolimits="true"/>
      <default><joint armature="0.03" damping="2"/></default>
      <worldbody><body name="Base">{body}</body></worldbody><actuator>{motors}</actuator></mujoco>"""


def panda(*, torques=False):
    """With a hand of two fingers on one tendon, told 0…255; ``torques``: motors that take torques."""
    names = [f"joint{index}" for index in range(1, 8)]
    finger = '<geom type="box" size="0.01 0.01 0.02" mass="0.02" contype="0" conaffinity="0"/>'
    hand = "<body name='hand'><inertial pos='0 0 0' mass='0.7' diaginertia='0.001 0.001 0.001'/>" + "".join(
        f'<body name="{side}_finger" pos="0 0 0.06"><joint name="finger_joint{number}" type="slide" axis="0 {axis} 0" '
        f'range="0 0.04"/>{finger}</body>'
        for number, side, axis in ((1, "left", 1), (2, "right", -1))
    )
    links = [f"link{index}" for index in range(1, 8)]
    axes, places = ("0 0 1", "0 1 0", "0 0 1", "0 -1 0", "0 0 1", "0 -1 0", "0 0 -1"), ("0 0 0.15",) * 7
    body = chain(links, names, axes, places, length=0.1, inner=hand + "</body>", joint='range="-3.8 3.8"')
    drive = "<motor name='m{0}' joint='{0}' ctrlrange='-87 87'/>"
    if not torques:
        drive = "<general name='m{0}' joint='{0}' biastype='affine' gainprm='2000' biasprm='0 -2000 -200'/>"
    return f"""<mujoco model="panda"><compiler angle="radian" autolimits="true"/>
      <default><joint armature="0.1" damping="1"/></default>
      <worldbody><body name="link0">{body}</body></worldbody>
      <tendon><fixed name="split"><joint joint="finger_joint1" coef="0.5"/><joint joint="finger_joint2" coef="0.5"/>
      </fixed></tendon>
      <equality><joint joint1="finger_joint1" joint2="finger_joint2" solref="0.005 1"/></equality>
      <actuator>{"".join(drive.format(name) for name in names)}
      <general name="actuator8" tendon="split" forcerange="-100 100" ctrlrange="0 255" biastype="affine"
        gainprm="0.01568627451 0 0" biasprm="0 -100 -10"/></actuator></mujoco>"""


FILES = {
    "universal_robots_ur5e/ur5e.xml": ur5e,
    "robotstudio_so101/so101.xml": so101,
    "trs_so_arm100/so_arm100.xml": so100,
    "franka_emika_panda/panda.xml": panda,
}


def write(root, *files):
    """These of `FILES`, or all."""
    for file in files or FILES:
        path = Path(root) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[file]())
    return Path(root)


@contextmanager
def simulated_ur5e():
    """An arm with a file of its own, for the contract."""
    from sim.arm import SimArm

    before = os.environ.get("MENAGERIE_ROOT")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MENAGERIE_ROOT"] = str(write(folder))
        try:
            yield SimArm(model="ur5e")
        finally:
            os.environ.pop("MENAGERIE_ROOT")
            if before is not None:
                os.environ["MENAGERIE_ROOT"] = before
