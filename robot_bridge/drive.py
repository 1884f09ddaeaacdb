"""``vla drive``: a policy and an arm, from the first look to the report.

    vla drive outputs/demo/train --arm sim --arm-option task=tabletop/press-button
    vla drive outputs/train --arm so101 --arm-option port=/dev/ttyACM0 --camera front=0 --instruction "lift the cube"

In simulation the arm is armed at once; on hardware an operator does it, with the key ``a``.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import get_args

import numpy as np

from policies.execution import Ensemble, ExecutionConfig
from policies.policy import SPEC_FILE, Realtime, read_spec
from robot_bridge.arms.arm import ARMS, Box, make_arm
from robot_bridge.client import BridgeError, Connection
from robot_bridge.control import MOVING, ControlConfig, State
from robot_bridge.fitting import Side, alike, misfits, of_policy
from robot_bridge.keyboard import Keyboard
from robot_bridge.ledger import Log
from robot_bridge.plan import Plan
from robot_bridge.report import write_report
from robot_bridge.run import Run, run_folder
from robot_bridge.showing import Shows
from robot_bridge.stage import STAGES, Stage, make_stage
from robot_bridge.transport import Keys
from robot_bridge.views import Views
from robot_bridge.wire import Codec
from vla.errors import UnderstudyError, unknown
from vla.types import PolicySpec, Task

logger = logging.getLogger(__name__)

LOOK_S = 0.05
SERVING_S = 180.0


@dataclass(frozen=True)
class Drive:
    """What a run is asked to be; see ``vla drive --help``."""

    checkpoint: Path | None = None
    arm: str = "sim"
    arm_options: tuple[tuple[str, object], ...] = ()
    cameras: tuple[tuple[str, object], ...] = ()
    instruction: str = ""
    server: str = ""
    keys: Keys | None = None
    name: str = "arm"
    episodes: int = 1
    seconds: float = 30.0
    seed: int = 0
    control: ControlConfig = field(default_factory=ControlConfig)
    replay: Path | None = None
    record: Path | None = None
    out: Path | None = None
    views: bool = False
    workspace: Box | None = None
    shows: Shows = field(default_factory=Shows)
    codecs: tuple[Codec, ...] = ("raw", "jpeg")


@dataclass(frozen=True)
class Driven:
    """How an episode ended; ``success``: ``None`` where nobody can tell."""

    success: bool | None
    seconds: float
    state: State
    reason: str


def drive(asked: Drive, *, keyboard: Keyboard | None = None) -> list[Driven]:
    """Carry out a run; raises `UnderstudyError` for what cannot be, before anything moves."""
    with _serving(asked) as address:
        spec = _spec(asked, address)
        stage = make_stage(asked.arm, dict(asked.arm_options), dict(asked.cameras), spec)
        try:
            _check_fits(asked, spec, stage)
            asked.shows.check(spec)
            plan = _plan(asked, spec, stage, address)
            with Run(plan) as run:
                return list(_episodes(asked, run, stage, keyboard))
        finally:
            stage.close()


def _plan(asked: Drive, spec: PolicySpec, stage: Stage, address: str) -> Plan:
    folder = run_folder()
    actions = None
    if asked.replay is not None:
        actions = folder / "actions.npy"
        np.save(actions, asked_actions(asked.replay, spec), allow_pickle=False)
    return Plan(
        folder=folder,
        arm=stage.arm,
        cameras=stage.cameras,
        policy=spec,
        arm_spec=make_arm(stage.arm.target, **stage.arm.options).spec,
        address=address,
        keys=asked.keys,
        name=asked.name,
        config=asked.control,
        actions=actions,
        record=asked.record,
        workspace=asked.workspace,
        shows=asked.shows,
        codecs=asked.codecs,
    )


@contextmanager
def _serving(asked: Drive) -> Iterator[str]:
    """The address of the server: the one that was given, or one of our own on this machine."""
    if asked.server or asked.replay is not None:
        yield asked.server
        return
    if asked.checkpoint is None:
        raise UnderstudyError("say which policy: a CHECKPOINT, or --server tcp://HOST:PORT")
    if not (asked.checkpoint / SPEC_FILE).is_file():
        raise UnderstudyError(f"{asked.checkpoint} is not a checkpoint: it has no {SPEC_FILE}")
    folder = run_folder()
    address = f"ipc://{folder / 'policy.sock'}"
    command = [
        sys.executable,
        "-m",
        "vla",
        "serve",
        str(asked.checkpoint),
        "--address",
        address,
        "--with-parent",
        str(os.getpid()),
    ]
    threads = str(max(1, (os.cpu_count() or 2) - 1))  # those that wait for the core that control takes are late
    process = subprocess.Popen(command, env={"OMP_NUM_THREADS": threads, **os.environ})
    try:
        yield address
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        (folder / "policy.sock").unlink(missing_ok=True)
        folder.rmdir()


def _spec(asked: Drive, address: str) -> PolicySpec:
    """What is served; a checkpoint on this machine that says otherwise is refused."""
    if asked.replay is not None:
        if asked.checkpoint is None:
            raise UnderstudyError(
                "to play a recording again, give a CHECKPOINT that was trained on it: it knows the units"
            )
        return read_spec(asked.checkpoint)
    connection, until = Connection(address, arm="looking", robot=asked.name, keys=asked.keys), monotonic() + SERVING_S
    try:
        while True:
            try:
                spec = connection.open(1.0)
                break
            except BridgeError as error:
                if asked.server or error.code != "timeout" or monotonic() > until:
                    raise
    finally:
        connection.close()
    if asked.server and asked.checkpoint is not None:
        here = replace(read_spec(asked.checkpoint), checkpoint="")
        if here != replace(spec, checkpoint=""):
            raise UnderstudyError(f"{asked.server} serves another policy than {asked.checkpoint}")
    return spec


def _check_fits(asked: Drive, spec: PolicySpec, stage: Stage) -> None:
    arm = make_arm(stage.arm.target, **stage.arm.options)
    found = misfits(spec, arm.spec, stage.camera_specs, kinematics=arm.kinematics is not None)
    for one in found:
        logger.warning("%s: %s", one.status, one)
    if any(one.status == "fail" for one in found):
        bad = "; ".join(str(one) for one in found if one.status == "fail")
        raise UnderstudyError(f"the policy does not fit the arm, which is not armed: {bad}")


def _episodes(asked: Drive, run: Run, stage: Stage, keyboard: Keyboard | None) -> Iterator[Driven]:
    log, views = Log(run.plan, run.rings), Views(run) if asked.views else None
    try:
        for number in range(asked.episodes):
            if number:
                stage.begin(number)
            instruction = asked.instruction or stage.instruction
            if not instruction and asked.replay is None and not asked.shows.something:
                raise UnderstudyError('say what to do: --instruction "lift the red cube"')
            run.begin(Task(instruction), seed=asked.seed + number, timeout_s=SERVING_S)
            ended = _episode(asked, run, stage, keyboard, log, views)
            sys.stderr.write("\n")
            logger.info("episode %d: %s after %.1f s%s", number, _verdict(ended), ended.seconds, _why(ended))
            yield ended
            if keyboard is not None and keyboard.left:
                break
    finally:  # whatever ended it: then most of all somebody wants to know
        log.drain()
        if asked.out is not None:
            logger.info("report: %s", write_report(asked.out, log))


def _episode(asked: Drive, run: Run, stage: Stage, keyboard: Keyboard | None, log: Log, views: Views | None) -> Driven:
    """One episode: armed, watched, ended by success, by time, by a stop."""
    if asked.arm in STAGES:
        run.arm()
    else:
        sys.stderr.write(f"{Keyboard.help}; or, from another terminal: vla order arm\n")
    began, armed = monotonic(), asked.arm in STAGES
    while True:
        if keyboard is not None:
            for word in keyboard.read():
                run.order(word)
        log.drain()
        if views is not None:
            views.show()
        sys.stderr.write(f"\r{log.ledger().line()}\x1b[K")
        run.check_alive()
        state = run.state
        armed = armed or state in MOVING
        if not armed:
            began = monotonic()
        over = monotonic() - began > asked.seconds or (keyboard is not None and keyboard.left)
        if over or stage.done() or (armed and state is State.STOPPED):
            break
        sleep(LOOK_S)
    ended = Driven(stage.done(), monotonic() - began, run.state, run.reason)
    if run.state in MOVING:
        run.order("stop")
        run.wait_for(State.STOPPED)
    return ended


def _verdict(ended: Driven) -> str:
    return {True: "achieved", False: "not achieved", None: "ended"}[ended.success]


def _why(ended: Driven) -> str:
    return f" ({ended.reason})" if ended.reason else ""


def asked_actions(dataset: Path, spec: PolicySpec, episode: int = 0) -> np.ndarray:
    """The actions [T, A] of a recorded episode; raises `UnderstudyError` for those of another kind of arm."""
    opened = import_module("vla.data.lerobot_reader").open_dataset(dataset)
    there = opened.spec
    recorded = Side("recording", there.action, spec.cameras, spec.proprio_names, there.fps)
    bad = [str(one) for one in alike(of_policy(spec), recorded) if one.status == "fail"]
    if bad:
        raise UnderstudyError(f"{dataset} cannot be played by what {spec.checkpoint} drives: {'; '.join(bad)}")
    return np.asarray(opened.episode(episode).actions, np.float32)


EXAMPLES = """\
examples:
  vla drive outputs/demo/train --arm sim --arm-option task=tabletop/press-button --episodes 3 --out outputs/drive
  vla drive outputs/train --arm so101 --arm-option port=/dev/ttyACM0 --camera front=0 --instruction "lift the cube"
  vla drive --server tcp://10.0.0.7:5555 --key keys/left.key_secret --server-key keys/server.key --arm ur \\
      --arm-option host=10.0.0.9 --camera front=0 --instruction "lift the cube" --shadow

keys: a arm, r reset, space stop, q leave; from another terminal: vla order stop
"""


def main(argv: list[str]) -> int:
    """``vla drive``."""
    given = _arguments().parse_args(argv)
    how = ExecutionConfig(ensemble=given.ensemble, exec_horizon=given.exec_horizon, realtime=given.realtime)
    if how.realtime != "none" and how.ensemble != "newest":
        raise UnderstudyError("--realtime goes with --ensemble newest alone")
    control = ControlConfig(execution=how, interpolation=given.interpolation, shadow=given.shadow)
    if (given.key is None) != (given.server_key is None):
        raise UnderstudyError("keys come in two: --key of this robot, --server-key of the server")
    if given.arm not in ARMS:
        raise unknown("arm", given.arm, ARMS)
    asked = Drive(
        checkpoint=given.checkpoint,
        arm=given.arm,
        arm_options=tuple(map(_option, given.arm_option)),
        cameras=tuple((name, _camera(value)) for name, value in map(_pair, given.camera)),
        instruction=given.instruction,
        server=given.server,
        keys=None if given.key is None else Keys(given.key, given.server_key),
        name=given.name,
        episodes=given.episodes,
        seconds=given.seconds,
        seed=given.seed,
        control=control,
        replay=given.replay,
        record=given.record,
        out=given.out,
        views=given.rerun,
        workspace=given.workspace and box(given.workspace),
        shows=Shows(given.prompt, given.goal),
        codecs=("raw", "jpeg") if given.codec == "raw" else ("jpeg",),
    )
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # brake and clear up, as for Ctrl-C
    with Keyboard() as keyboard:
        ended = drive(asked, keyboard=keyboard if keyboard.there else None)
    known = [one.success for one in ended if one.success is not None]
    if known:
        sys.stdout.write(f"{sum(known)} of {len(known)} episodes achieved\n")
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UnderstudyError(f"{text!r} is not written name=value")
    return name, value


def _option(text: str) -> tuple[str, object]:
    name, value = _pair(text)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def box(corners: list[float]) -> Box:
    """Six numbers as two corners; raises `UnderstudyError` when they are none."""
    low, high = (corners[0], corners[1], corners[2]), (corners[3], corners[4], corners[5])
    if not all(one < other for one, other in zip(low, high, strict=True)):
        raise UnderstudyError(f"a workspace is written lowest x y z, then highest x y z [m]; got {corners}")
    return low, high


def _camera(value: str) -> object:
    """A number or a path, or all of LeRobot's settings of a camera as JSON."""
    if value.startswith("{"):
        return json.loads(value)
    return {"type": "opencv", "index_or_path": int(value) if value.isdigit() else value}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vla drive",
        description="Drive an arm, simulated or real, by a policy.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        nargs="?",
        help="folder of a checkpoint; served on this machine unless --server is given",
    )
    add("--arm", default="sim", help=f"{', '.join(ARMS)} (%(default)s)")
    add("--arm-option", action="append", default=[], metavar="NAME=VALUE", help="of the arm: port=…, host=…, task=…")
    add(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=WHICH",
        help="a number, a path, or LeRobot's settings as JSON",
    )
    add("--instruction", default="", help="what to do; in simulation the task says it")
    add("--prompt", type=Path, metavar="VIDEO", help="a video of somebody doing it, for a policy that is shown")
    add("--goal", type=Path, metavar="IMAGE", help="what it should see in the end (of a video, the last frame)")
    add("--server", default="", help="tcp://HOST:PORT of `vla serve`")
    add("--key", type=Path, help="this robot's .key_secret")
    add("--server-key", type=Path, help="the server's .key")
    add("--name", default="arm", help="of the arm at the server, which lets one robot drive it (%(default)s)")
    add("--episodes", type=int, default=1, help="%(default)s")
    add("--seconds", type=float, default=30.0, help="of an episode, at most (%(default)s)")
    add("--seed", type=int, default=0, help="of the policy's noise (%(default)s)")
    add("--ensemble", default="newest", choices=get_args(Ensemble), help="of chunks that overlap (%(default)s)")
    add("--exec-horizon", type=int, help="steps between two chunks; the policy's own, if not given")
    add("--realtime", default="none", choices=get_args(Realtime), help="real-time chunking (%(default)s)")
    add("--codec", default="raw", choices=get_args(Codec), help="of pictures; jpeg for 1 Gb/s and less (%(default)s)")
    add("--workspace", type=float, nargs=6, metavar="M", help="box of the tool, in the base's frame: x y z, x y z")
    add("--interpolation", default="spline", choices=("spline", "steps"), help="%(default)s")
    add("--shadow", action="store_true", help="look and ask, but send nothing to the arm")
    add("--replay", type=Path, metavar="DATASET", help="play its first episode again, without a policy")
    add("--record", type=Path, metavar="DATASET", help="write episodes there, in the format of training")
    add("--out", type=Path, help="folder of the run's report")
    add("--rerun", action="store_true", help="show live views (needs the package rerun-sdk)")
    return parser
