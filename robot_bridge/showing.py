"""How a run's task is put besides in words: a video of somebody doing it, or a picture of the goal."""

from dataclasses import dataclass, replace
from pathlib import Path

from vla.errors import UnderstudyError
from vla.prompt import check_prompt, read_goal, read_prompt
from vla.types import PolicySpec, Task


@dataclass(frozen=True)
class Shows:
    """Files: a video ``prompt``; a ``goal``, which may be a video too: its last frame."""

    prompt: Path | None = None
    goal: Path | None = None

    @property
    def something(self) -> bool:
        """Whether there is anything to see."""
        return self.prompt is not None or self.goal is not None

    def check(self, spec: PolicySpec) -> None:
        """A policy that is shown what to do must be shown just that; what is shown must be of use."""
        wanted = {
            "video": (self.prompt, "--prompt VIDEO, of somebody doing it"),
            "goal": (self.goal, "--goal IMAGE, of what it should see in the end"),
        }
        for kind, (given, how) in wanted.items():
            if kind in spec.accepts and given is None:
                raise UnderstudyError(f"this policy is shown what to do: {how}")
            if given is not None and kind not in spec.accepts:
                raise UnderstudyError(f"this policy looks at no {kind}; it wants {' or '.join(spec.accepts)}")
        self.of(Task(""))

    def of(self, task: Task) -> Task:
        """The task with what shows it; raises `UnderstudyError` for files in which nothing is to be seen."""
        if self.prompt is not None:
            video = read_prompt(self.prompt)
            check_prompt(video)
            task = replace(task, video=video)
        return task if self.goal is None else replace(task, goal=read_goal(self.goal))
