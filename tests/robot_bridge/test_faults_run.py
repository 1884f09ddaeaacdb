"""What can happen to the processes of a run, and to the server beside it, judged by how the arm really moved."""

import json
import os
import re
import signal
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns, sleep

import numpy as np
import pytest
from robot_bridge_rig import JOINT_POLICY, check_motion, check_setpoints
from robot_bridge_stage import MOVING, staged, wait_for
from robot_bridge_sway import Served, sway

import robot_bridge
from robot_bridge.control import State
from robot_bridge.plan import Made
from vla.errors import UnderstudyError
from vla.types import Task

pytestmark = pytest.mark.realtime


class Here:
    """A run and a server on this machine; the server may be ended, frozen and started again."""

    def __init__(self, on, tmp_path, **about):
        self.address, self._folder = f"ipc://{tmp_path / 'policy'}", tmp_path
        self.serve()
        on.callback(lambda: self.server.close())
        self.stage = on.enter_context(staged(self.address, **about))

    def serve(self, spec=JOINT_POLICY, **about):
        self.server = Served(self.address, spec, self._folder, **about)

    def tell(self, number):
        os.kill(self.server.pid, number)


@pytest.fixture(scope="module")
def lasting(on_the_path, tmp_path_factory):
    with ExitStack() as on:
        yield Here(on, tmp_path_factory.mktemp("run"))


@pytest.fixture
def here(lasting):
    """A run that all tests share, its arm on the move."""
    lasting.stage.sways()
    return lasting


@pytest.fixture
def own(on_the_path, tmp_path):
    """A run that a test may end, its arm on the move; a camera that can be spoilt."""
    with ExitStack() as on:
        made = Here(on, tmp_path, cameras=Made("sway:Camera", {"folder": str(tmp_path)}))
        made.stage.sways()
        yield made


def world_rests(stage, seconds=1.0):
    """The arm stands, by its own means if need be, and has kept its limits."""
    sleep(seconds)
    motion = stage.records("motion")
    check_motion(motion["joints"], motion["velocity"], motion["setpoint"])
    check_setpoints(stage.records("ticks")["sent"])
    assert np.abs(motion["velocity"][-100:]).max() < 0.02


@pytest.mark.fault(1)
def test_the_server_is_killed(here):
    sleep(0.3)
    here.tell(signal.SIGKILL)
    killed_ns = monotonic_ns()
    wait_for(lambda: not here.stage.alive)
    assert monotonic_ns() - killed_ns < 700_000_000
    here.stage.rests_by(here.stage.chunk_end_ns)
    here.server.close()
    here.serve()
    here.stage.sways().goes_on()


@pytest.mark.fault(2)
@pytest.mark.parametrize("frozen_s", [3.0, pytest.param(12.0, marks=pytest.mark.slow)])
def test_the_server_is_frozen_and_thaws(here, frozen_s):
    here.tell(signal.SIGSTOP)
    here.stage.rests_by(here.stage.chunk_end_ns)
    sleep(frozen_s)
    thawed_ns = monotonic_ns()
    here.tell(signal.SIGCONT)
    sleep(0.5)
    assert here.stage.run.state is State.STOPPED
    here.stage.rests_by(thawed_ns)
    here.stage.sways().goes_on()
    here.stage.judge()


@pytest.mark.fault(3)
def test_the_server_is_started_anew_at_once(here):
    met = int(here.stage.run.rings["link"].newest()["meeting"])
    here.server.close()
    here.serve()
    here.stage.rests_by(here.stage.chunk_end_ns)
    wait_for(lambda: int(here.stage.run.rings["link"].newest()["meeting"]) > met)
    sleep(0.3)
    assert here.stage.run.state is State.STOPPED
    here.stage.sways().goes_on()


@pytest.mark.fault(4)
def test_the_control_process_is_killed(own):
    own.stage.run.processes["control"].kill()
    world_rests(own.stage)


@pytest.mark.fault(4)
def test_the_asking_process_is_killed_and_the_server_frees_the_arm(own):
    own.stage.run.processes["asking"].kill()
    wait_for(lambda: own.stage.run.status["state"] == State.STOPPED)
    world_rests(own.stage)
    wait_for(lambda: own.server.counts["robots"] == 0)


@pytest.mark.fault(14)
def test_an_answer_that_comes_after_its_time_is_not_carried_out(here):
    before = int(here.stage.run.rings["link"].newest()["dropped"])
    here.tell(signal.SIGSTOP)
    sleep(0.9)  # longer than an answer is of use, which is 0.75 s
    thawed_ns = monotonic_ns()
    here.tell(signal.SIGCONT)
    wait_for(lambda: int(here.stage.run.rings["link"].newest()["dropped"]) > before)
    here.stage.rests_by(thawed_ns + 300_000_000)
    assert here.stage.run.state is State.STOPPED


@pytest.mark.fault(19)
@pytest.mark.needs_root
@pytest.mark.parametrize("offset_s", [5, -5, 3600])
def test_the_clock_of_the_other_machine_is_another(here, offset_s):
    here.server.close()
    if offset_s > 0:
        through = ["unshare", "--time", "--fork", f"--monotonic={offset_s}", f"--boottime={offset_s}"]
    else:
        through = ["unshare", "--time", "--fork", f"--monotonic={offset_s}"]
    if subprocess.run([*through, "true"], capture_output=True, check=False).returncode:
        here.serve()
        pytest.skip("this machine has no clocks of their own for processes")
    here.serve(through=lambda *command: [*through, *command])
    here.stage.run.wait_for(State.STOPPED)
    here.stage.sways().goes_on()
    here.stage.judge()
    here.server.close()
    here.serve()
    here.stage.run.wait_for(State.STOPPED)


@pytest.mark.fault(19)
def test_nothing_reads_the_clock_on_the_wall():
    for name in (
        "asking",
        "brain",
        "client",
        "control",
        "loop",
        "replaying",
        "rings",
        "safety",
        "seeing",
        "server",
        "wire",
    ):
        text = (Path(robot_bridge.__file__).parent / f"{name}.py").read_text()
        assert not re.search(r"\btime\.time\(|(?<!monotonic)_ns\(\)(?<=time_ns\(\))|datetime", text), name


@pytest.mark.fault(20)
@pytest.mark.parametrize(("slept_s", "states"), [(0.05, MOVING), (0.2, (State.STOPPED,))])
def test_the_control_process_sleeps(here, slept_s, states):
    pid = here.stage.run.processes["control"].pid
    os.kill(pid, signal.SIGSTOP)
    sleep(slept_s)
    os.kill(pid, signal.SIGCONT)
    sleep(1.0)
    assert here.stage.run.state in states
    motion = here.stage.records("motion")
    check_motion(motion["joints"], motion["velocity"], motion["setpoint"])


@pytest.mark.fault(22)
def test_feedback_freezes(own):
    own.stage.world.inject(frozen=True)
    own.stage.run.wait_for(State.STOPPED)
    world_rests(own.stage)


@pytest.mark.fault(23)
@pytest.mark.needs_root
def test_the_disk_of_the_recorder_is_full(on_the_path, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=True)
    try:
        with ExitStack() as on:
            made = Here(on, tmp_path, record=disk / "recording")
            made.stage.sways().goes_on(2.0)
            made.stage.judge()
            told = made.stage.run.rings["recorder"].newest()["trouble"].decode()
            assert "space" in told.lower() or "full" in told.lower()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.fault(25)
def test_the_operator_says_stop_while_nothing_else_gets_through(here):
    here.tell(signal.SIGSTOP)
    os.kill(here.stage.run.processes["asking"].pid, signal.SIGSTOP)
    try:
        sleep(0.05)
        said_ns = monotonic_ns()
        here.stage.run.order("stop")
        here.stage.run.wait_for(State.STOPPED)
        ticks = here.stage.records("ticks")
        first = ticks["stamp_ns"][(ticks["stamp_ns"] > said_ns) & (ticks["state"] >= State.RAMP_STOP)][0]
        assert np.count_nonzero((ticks["stamp_ns"] > said_ns) & (ticks["stamp_ns"] < first)) <= 1
        here.stage.rests_by(said_ns + 500_000_000)
    finally:
        here.tell(signal.SIGCONT)
        os.kill(here.stage.run.processes["asking"].pid, signal.SIGCONT)


@pytest.mark.fault(26)
def test_another_policy_is_served_all_of_a_sudden(here):
    here.server.close()
    turned = replace(JOINT_POLICY.action.gripper, open=0.0, closed=1.0)
    here.serve(replace(JOINT_POLICY, action=replace(JOINT_POLICY.action, gripper=turned)))
    here.stage.rests_by(here.stage.chunk_end_ns)
    joints = here.stage.world.rings["motion"].newest()["joints"]
    with pytest.raises(UnderstudyError, match="another policy"):
        here.stage.run.begin(Task(sway(0, joints)), timeout_s=5.0)
    here.stage.run.order("reset")
    here.stage.run.order("arm")
    sleep(0.3)
    assert here.stage.run.state is State.IDLE
    here.server.close()
    here.serve()
    here.stage.sways().goes_on()


@pytest.mark.fault(27)
@pytest.mark.parametrize(("how", "why"), [("frozen", "same picture"), ("old", "ms old")])
def test_a_camera_freezes(own, tmp_path, how, why):
    (tmp_path / how).touch()
    own.stage.run.wait_for(State.STOPPED)
    assert why in own.stage.run.reason
    world_rests(own.stage)


def test_a_run_says_why_it_cannot_be_armed(own):
    own.server.close()
    own.stage.run.wait_for(State.STOPPED)
    with pytest.raises(UnderstudyError, match="cannot be armed"):
        own.stage.run.arm(timeout_s=0.5)
    own.serve()
    json.dumps(own.server.counts)
