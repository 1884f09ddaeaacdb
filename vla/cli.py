"""The command line: a table of verbs, each imported only when it is chosen.

A verb's ``main(argv)`` takes the arguments after the verb, answers ``--help`` itself, and returns an exit code or
``None`` for 0. What goes wrong outside the program is told in one line, without a traceback.
"""

import errno
import logging
import os
import select
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

from vla.errors import UnderstudyError, unknown


class Verb(NamedTuple):
    """``target`` is ``module:function``; ``about`` is one line; ``example`` is a command that works as it stands."""

    target: str
    about: str
    example: str


VERBS = {
    "demo": Verb("sim.demo:main", "collect, train, evaluate and report, from nothing", "vla demo"),
    "doctor": Verb("sim.doctor:main", "say what this machine can do and what it lacks", "vla doctor"),
    "collect": Verb(
        "sim.collect:main",
        "record a scripted expert in simulation",
        "vla collect tasks=[tabletop/lift-red-cube] episodes=50 out=outputs/collect",
    ),
    "human": Verb(
        "sim.human:main",
        "film a simulated hand doing tasks, with captions",
        "vla human tasks=[tabletop/*] clips=200 out=outputs/sim-human",
    ),
    "human pick": Verb(
        "sim.human_pick_command:main",
        "film a simulated hand that picks and places, in calibrated cameras",
        "vla human pick --out outputs/pick",
    ),
    "data": Verb("vla.data.cli:main", "import, inspect or repair recordings", "vla data inspect outputs/collect"),
    "pretrain": Verb(
        "vla.representation.pretrain:main",
        "learn to see from captioned video of people",
        "vla pretrain representation=voltron_cond preset=cpu data=outputs/sim-human",
    ),
    "train": Verb(
        "policies.train:main", "train a policy on recordings", "vla train policy=cogact preset=cpu data=outputs/collect"
    ),
    "plan": Verb(
        "policies.plan:main",
        "say what a training run takes before it is begun",
        "vla plan policy=cogact preset=paper gpus=8",
    ),
    "plan forward": Verb(
        "sim.plan_forward:main",
        "choose actions by what a video action model expects of them",
        "vla plan forward policy=outputs/train tasks=[tabletop/press-button] episodes=20",
    ),
    "plan eval": Verb(
        "sim.plan_eval:main",
        "measure what an evaluation costs, and say how long it takes on many CPUs",
        "vla plan eval tasks=[tabletop/*] episodes=50 cpus=1000",
    ),
    "eval": Verb(
        "sim.evaluate:main",
        "count a policy's successes in simulation",
        "vla eval policy=outputs/train episodes=20",
    ),
    "predict video": Verb(
        "sim.predict:video",
        "film what a video action model expects beside what happened",
        "vla predict video policy=outputs/train data=outputs/collect",
    ),
    "predict inverse": Verb(
        "sim.label:main",
        "tell the actions of videos that have none",
        "vla predict inverse policy=outputs/train videos=outputs/sim-human out=outputs/labelled",
    ),
    "progress": Verb(
        "sim.progress:main",
        "plot how far from a goal each frame of a video is",
        "vla progress policy=outputs/train video=recordings/films/clips/000000.mp4",
    ),
    "race": Verb(
        "sim.race:main",
        "play two policies until it is known which is better",
        "vla race policy=outputs/train against=outputs/train-l1",
    ),
    "compare": Verb(
        "sim.compare:main", "test whether one evaluation beats another", "vla compare outputs/eval-a outputs/eval-b"
    ),
    "leaderboard": Verb(
        "sim.leaderboard.command:main",
        "rank policies on the scenes that all of them were given",
        "vla leaderboard CogACT=outputs/cogact-*/eval ACT=outputs/act-*/eval",
    ),
    "merge": Verb(
        "sim.merge:main",
        "merge the episodes of several evaluations",
        "vla merge outputs/eval-a outputs/eval-b --out outputs/eval",
    ),
    "probe": Verb(
        "sim.probe.command:main",
        "measure what a representation is worth to a robot",
        "vla probe outputs/pretrain --quick",
    ),
    "lerobot": Verb(
        "policies.lerobot_plugin.command:main",
        "let LeRobot load a checkpoint of ours, or us one of LeRobot's",
        "vla lerobot outputs/train",
    ),
    "serve": Verb(
        "robot_bridge.serve:main", "answer robots' observations with chunks of actions", "vla serve outputs/train"
    ),
    "remote": Verb(
        "sim.remote:main",
        "evaluate a policy that somebody else's server answers for",
        "vla remote gr00t://127.0.0.1:5555 --like tabletop --out outputs/remote",
    ),
    "drive": Verb("robot_bridge.drive:main", "drive an arm, simulated or real, by a policy", "vla drive outputs/train"),
    "calibrate": Verb(
        "robot_bridge.retarget.calibrate:main",
        "print a board, measure a camera's lens and its place",
        "vla calibrate board --out board.png",
    ),
    "track": Verb("robot_bridge.retarget.track:main", "find the hands in a video", "vla track me.mp4"),
    "retarget": Verb(
        "robot_bridge.retarget.command:main",
        "make setpoints of an arm from videos of a hand",
        "vla retarget front.mp4 side.mp4 --cameras cameras.json",
    ),
    "order": Verb("robot_bridge.orders:main", "say stop, reset or arm to a run that is under way", "vla order stop"),
    "keys": Verb("robot_bridge.serve:keys", "make keys for a server and its robots", "vla keys keys --robot left"),
    "bench": Verb("vla.bench:main", "time a part of the program against its peers", "vla bench"),
}

OUR_LOGGERS = ("vla", "policies", "robot_bridge", "sim")
FULL = {errno.ENOSPC, errno.EDQUOT}


def help_text() -> str:
    """The table of verbs, with an example of each."""
    rows = [f"  {name:<15} {verb.about}\n  {'':<15}   {verb.example}" for name, verb in VERBS.items()]
    lines = ["usage: vla VERB [arguments]", "", *rows, "", "vla VERB --help explains a verb and its settings."]
    return "\n".join(lines) + "\n"


def run(argv: list[str]) -> int:
    """Run ``argv`` (without the program's name) and return the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        sys.stdout.flush()
        return 0
    words = 2 if " ".join(argv[:2]) in VERBS else 1
    name, rest = " ".join(argv[:words]), argv[words:]
    if name not in VERBS:
        return _fail("vla", str(unknown("verb", name, VERBS)))
    _log_to_stderr()
    module, _, function = VERBS[name].target.partition(":")
    try:
        code = getattr(import_module(module), function)(rest)
        sys.stdout.flush()
    except UnderstudyError as error:
        return _fail(f"vla {name}", str(error))
    except KeyboardInterrupt:
        return _fail(f"vla {name}", "stopped; what was finished is kept", code=130)
    except Exception as error:
        if full := next((cause for cause in _causes(error) if _is_full(cause)), None):
            return _fail(f"vla {name}", f"disk full: {full}; free some space and run the command again")
        raise
    return int(code or 0)


def entry() -> None:
    """The console script ``vla``."""
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:
        if not _reader_left():
            raise
        # The interpreter flushes stdout once more at exit and would complain; 141 is what a shell gives for SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _fail(who: str, message: str, code: int = 2) -> int:
    sys.stderr.write(f"{who}: {' '.join(message.split())}\n")
    return code


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    # safetensors and torch report a full disk in errors of their own, which carry no errno.
    return (isinstance(error, OSError) and error.errno in FULL) or "No space left on device" in str(error)


def _reader_left() -> bool:
    """Whether stdout is the pipe that broke, rather than one to a worker process."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
