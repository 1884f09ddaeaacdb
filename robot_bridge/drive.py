"""``vla drive``: a policy and an arm, from the first look to the report.

    vla drive outputs/demo/train --arm sim --arm-option task=tabletop/press-button
    vla drive outputs/train --arm so101 --arm-option port=/dev/ttyACM0 --camera front=0 --instruction "lift the cube"

In simulation the arm is armed at once; on hardware an operator does it, with the key ``a``.
"""

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from policies.execution import ExecutionConfig
from policies.policy import SPEC_FILE, read_spec
from robot_bridge.arguments import box, camera, drive_arguments, option, pair
from robot_bridge.arms.arm import ARMS, Box, make_arm
from robot_bridge.client import BridgeError, Connection
from robot_bridge.control import MOVING, ControlConfig, State
from robot_bridge.demonstration import demo_spec, prepared
from robot_bridge.fitting import Side, alike, misfits, of_policy
from robot_bridge.keyboard import Keyboard
from robot_bridge.ledger import Log
from robot_bridge.plan import Plan
from robot_bridge.report import write_report
from robot_bridge.retarget.folder import Prepared
from robot_bridge.run import Run, run_folder
from robot_bridge.showing import Shows
from robot_bridge.stage import STAGES, Stage, bare_arm, make_stage
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
    demo: Path | None = None
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
    if asked.demo and _demo(asked).verdict == "check":
        logger.warning("%s is to be checked by a person before the arm is armed: see its report.html", asked.demo)
    rows = _demo(asked).joints if asked.demo else asked_actions(asked.replay, spec) if asked.replay else None
    if rows is not None:
        actions = folder / "actions.npy"
        np.save(actions, rows, allow_pickle=False)
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
        goes_on=asked.demo is not None,
        record=asked.record,
        workspace=asked.workspace,
        shows=asked.shows,
        codecs=asked.codecs,
    )


@contextmanager
def _serving(asked: Drive) -> Iterator[str]:
    """The address of the server: the one that was given, or one of our own on this machine."""
    if asked.server or asked.replay is not None or asked.demo is not None:
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
    if asked.demo is not None:
        return demo_spec(bare_arm(asked.arm, asked.arm_options).spec, _demo(asked).hz)
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
            if not instruction and asked.replay is None and asked.demo is None and not asked.shows.something:
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


def made_of(given: argparse.Namespace) -> Path:
    """The folder of what was made of the videos, which is done first where they are no such folder."""
    if len(given.demo) == 1 and Path(given.demo[0]).is_dir():
        return Path(given.demo[0])
    command = import_module("robot_bridge.retarget.command")
    out = (given.out or Path("outputs/drive")) / "demo"
    options = tuple(map(option, given.arm_option))
    command.run(command.Asked(command.named(given.demo), out, given.cameras, arm=given.arm, arm_options=options))
    return out


def _demo(asked: Drive) -> Prepared:
    assert asked.demo is not None
    return prepared(asked.demo, asked.arm, bare_arm(asked.arm, asked.arm_options).spec)


def asked_actions(dataset: Path, spec: PolicySpec, episode: int = 0) -> np.ndarray:
    """The actions [T, A] of a recorded episode; raises `UnderstudyError` for those of another kind of arm."""
    opened = import_module("vla.data.lerobot_reader").open_dataset(dataset)
    there = opened.spec
    recorded = Side("recording", there.action, spec.cameras, spec.proprio_names, there.fps)
    bad = [str(one) for one in alike(of_policy(spec), recorded) if one.status == "fail"]
    if bad:
        raise UnderstudyError(f"{dataset} cannot be played by what {spec.checkpoint} drives: {'; '.join(bad)}")
    return np.asarray(opened.episode(episode).actions, np.float32)


def main(argv: list[str]) -> int:
    """``vla drive``."""
    given = drive_arguments().parse_args(argv)
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
        arm_options=tuple(map(option, given.arm_option)),
        cameras=tuple((name, camera(value)) for name, value in map(pair, given.camera)),
        instruction=given.instruction,
        server=given.server,
        keys=None if given.key is None else Keys(given.key, given.server_key),
        name=given.name,
        episodes=given.episodes,
        seconds=given.seconds,
        seed=given.seed,
        control=control,
        replay=given.replay,
        demo=given.demo and made_of(given),
        record=given.record,
        out=given.out,
        views=given.rerun,
        workspace=given.workspace and box(given.workspace),
        shows=Shows(given.prompt, given.goal),
        codecs=("raw", "jpeg") if given.codec == "raw" else ("jpeg",),
    )
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # brake and clear up, as for Ctrl-C
    if given.open and given.out is None:
        raise UnderstudyError("--open shows the report, which goes into a folder: --out FOLDER")
    with Keyboard() as keyboard:
        ended = drive(asked, keyboard=keyboard if keyboard.there else None)
    for report in (given.out / "demo/report.html", given.out / "report.html") if given.open else ():
        if report.is_file() and not webbrowser.open(report.resolve().as_uri()):
            sys.stdout.write(f"no browser to show {report}\n")
    known = [one.success for one in ended if one.success is not None]
    if known:
        sys.stdout.write(f"{sum(known)} of {len(known)} episodes achieved\n")
    return 0
