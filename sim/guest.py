"""A suite that plays in a process and an environment of its own, because its packages cannot share ours.

    class RobosuiteSuite(GuestSuite):
        home = Home("robosuite")                                # .venv-robosuite, made by `make robosuite`
        inside = "sim.tasks.robosuite_guest:RobosuiteGuest"     # the suite itself, imported there and nowhere else

To everybody else it is a suite like any other. A guest that dies or hangs is an `EnvironmentCrashed` with its exit code
and its last words; the next `reset` starts another one, which plays the same scenes.
"""

import json
import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, ClassVar, NoReturn

import numpy as np

from sim.guest_messages import Told, receive, send, spec_from_json
from sim.suite import Diverged, EnvironmentCrashed, EpisodeFault, NoExpert
from vla.errors import UnderstudyError
from vla.types import Observation

PROJECT = Path(__file__).parents[1]
_REFUSALS = {one.__name__: one for one in (Diverged, EpisodeFault, NoExpert)}
_DYING_SECONDS = 5.0
_LAST_LINES = 4


@dataclass(frozen=True)
class Home:
    """The environment ``.venv-NAME`` that ``make NAME`` sets up; the variable ``UNDERSTUDY_NAME`` names another."""

    name: str

    @property
    def folder(self) -> Path:
        """Where the environment lies, or would lie."""
        return Path(os.environ.get(f"UNDERSTUDY_{self.name.upper()}") or PROJECT / f".venv-{self.name}")

    def python(self) -> Path:
        """Its interpreter; raises `UnderstudyError` where there is none."""
        python = self.folder / "bin" / "python"
        if not python.is_file():
            raise UnderstudyError(
                f"the suite {self.name} plays in an environment of its own, and there is none at {self.folder}: run "
                f"`make {self.name}`, or let UNDERSTUDY_{self.name.upper()} name the folder of one"
            )
        return python


class GuestSuite:
    """`sim.suite.Suite` over a process; see the module. ``options`` go to the suite inside."""

    home: ClassVar[Home]
    inside: ClassVar[str]
    modules: ClassVar[tuple[Path, ...]] = (PROJECT,)
    """folders that the suite inside is imported from, and what it imports of ours"""
    patience_s: ClassVar[float] = 300.0
    """how long a guest may be silent: what takes longest is importing its packages on a machine that is busy"""

    def __init__(self, **options: object) -> None:
        self._command = ["-m", "sim.guest_process", self.inside, json.dumps(options)]
        self._start()

    @property
    def instruction(self) -> str:
        """The words for the task of the current episode."""
        return self._now()["instruction"]

    @property
    def steps(self) -> int:
        """Steps taken since `reset`."""
        return self._now()["steps"]

    @property
    def success(self) -> bool:
        """Whether the current task has been achieved at any step since `reset`."""
        return self._now()["success"]

    def reset(self, task: str, seed: int) -> None:
        """Start ``task`` in the scene that ``seed`` decides; raises `UnderstudyError` for an unknown task."""
        if self._process.ended:
            self._start()
        self._told = {}
        self._follow(self._ask("reset", task=task, seed=int(seed)))

    def observe(self) -> Observation:
        """Render the cameras and read the proprio of this instant."""
        told, (*pictures, proprio) = self._process.ask({"do": "observe"})
        images = dict(zip((camera.name for camera in self.spec.cameras), pictures, strict=True))
        return Observation(images=images, proprio=proprio, stamp_ns=told["stamp_ns"])

    def step(self, action: np.ndarray) -> None:
        """Carry out one action [A]."""
        self._follow(self._ask("step", np.asarray(action, np.float64)))

    def expert(self) -> Callable[[], np.ndarray]:
        """The suite's scripted expert for the current episode."""
        number = self._ask("expert")["number"]
        return lambda: self._process.ask({"do": "act", "number": number})[1][0]

    def keep(self) -> Callable[[], None]:
        """Remember this instant of the episode; each call of what is returned, until the next `reset`, goes back."""
        return self._way_back(self._ask("keep"))

    @contextmanager
    def disturbed(self, axis: str, level: int, seed: int) -> Iterator[None]:
        """After `reset`: within it, this episode's world looks otherwise."""
        undo = self._way_back(self._ask("disturb", axis=axis, level=level, seed=int(seed)))
        try:
            yield
        finally:
            if not self._process.ended:
                undo()

    def film(self, size: int) -> np.ndarray:
        """One frame [size, size, 3] uint8 for people to watch."""
        return self._process.ask({"do": "film", "size": size})[1][0]

    def close(self) -> None:
        """End the process."""
        self._told = {}
        self._process.end()

    def _start(self) -> None:
        self._told: Told = {}
        self._process = _Process([str(self.home.python()), *self._command], self.modules, self.patience_s)
        offered = self._ask("spec")
        self.spec = spec_from_json(offered["spec"])
        self.max_steps: int = offered["max_steps"]

    def _ask(self, question: str, *arrays: np.ndarray, **about: object) -> Told:
        return self._process.ask({"do": question, **about}, *arrays)[0]

    def _follow(self, told: Told) -> None:
        self._told = told
        self.max_steps = told["max_steps"]

    def _way_back(self, told: Told) -> Callable[[], None]:
        return lambda: self._follow(self._ask("back", number=told["number"]))

    def _now(self) -> Told:
        if not self._told:
            raise UnderstudyError("no episode has been started: call reset(task, seed) first")
        return self._told


class _Process:
    """The guest, from its start to its end."""

    def __init__(self, command: list[str], modules: tuple[Path, ...], patience_s: float) -> None:
        self._patience_s = patience_s
        self._wire, theirs = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._child = subprocess.Popen(
            [*command, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            pass_fds=[theirs.fileno()],
            env={**alone, "PYTHONPATH": os.pathsep.join(map(str, modules))},
        )
        theirs.close()
        self.end = weakref.finalize(self, _end, self._child, self._wire, self._said)
        """ends the process; also when nobody holds it any more, and at exit"""

    @property
    def ended(self) -> bool:
        """Whether there is nobody to ask."""
        return not self.end.alive or self._child.poll() is not None

    def ask(self, told: Told, *arrays: np.ndarray) -> tuple[Told, list[np.ndarray]]:
        """One question, one answer; raises `UnderstudyError` for what is refused, `EnvironmentCrashed` for silence."""
        if not self.end.alive:
            raise EnvironmentCrashed("the environment's process has ended; reset(task, seed) starts another one")
        try:
            send(self._wire, told, *arrays)
            if not self._wire.poll(self._patience_s):
                self._fail(f"gave no answer to {told['do']!r} for {self._patience_s:g} s and was ended")
            answer, answered = receive(self._wire)
        except (EOFError, OSError):
            self._fail(f"died while it was asked to {told['do']!r}: {_fate(self._child)}")
        if "refused" in answer:
            raise _REFUSALS.get(answer["kind"], UnderstudyError)(answer["refused"])
        return answer, answered

    def _fail(self, how: str) -> NoReturn:
        words = _last_words(self._said)
        self.end()
        raise EnvironmentCrashed(f"the environment's process {how}{words}")


def _end(child: "subprocess.Popen[bytes]", wire: Connection, said: IO[bytes]) -> None:
    wire.close()
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    said.close()


def _fate(child: "subprocess.Popen[bytes]") -> str:
    """How it ended."""
    try:
        code = child.wait(_DYING_SECONDS)
    except subprocess.TimeoutExpired:
        return "it runs on, but talks no more"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return f"; its last words: {' | '.join(lines[-_LAST_LINES:])[-600:]}" if lines else ""
