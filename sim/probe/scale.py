"""How much is asked: the whole suite, a study of many checkpoints, or a quick look with wider intervals."""

from dataclasses import dataclass

from sim.tasks.tabletop import TASKS


@dataclass(frozen=True)
class Scale:
    """Numbers of labels, steps, films and rollouts; ``seed``: of the heads."""

    name: str
    stills: int
    test_stills: int
    labels: tuple[int, ...]
    head_steps: int
    grasp_steps: int
    films: int
    demos: tuple[int, ...]
    tasks: tuple[str, ...]
    rollouts: int
    policy_steps: int
    film_tasks: tuple[str, ...] = tuple(TASKS)
    seed: int = 0


CONTROL_TASKS = ("tabletop/touch-red-cube", "tabletop/touch-yellow-cylinder")
"""Where the thing lies is for the eyes to find: the button and the drawer stand where they stand in every scene.

A touch takes some 13 steps: 25 demonstrations are 330 pictures, too few to tell any eyes from none, and 100 are what 25
of R3M's kitchen are.
"""

FULL = Scale(
    name="full",
    stills=1000,
    test_stills=400,
    labels=(50, 200, 1000),
    head_steps=600,
    grasp_steps=300,
    films=4,
    demos=(5, 10, 25, 100),
    tasks=CONTROL_TASKS,
    rollouts=60,
    policy_steps=600,
)
STUDY = Scale(
    name="study",
    stills=300,
    test_stills=200,
    labels=(50, 300),
    head_steps=200,
    grasp_steps=100,
    films=4,
    demos=(100,),
    tasks=CONTROL_TASKS,
    rollouts=100,
    policy_steps=800,
)
"""What many checkpoints are compared by (`vla bench scoreboard`): the rollouts of the whole suite, fewer labels."""
QUICK = Scale(
    name="quick",
    stills=120,
    test_stills=80,
    labels=(120,),
    head_steps=80,
    grasp_steps=40,
    films=2,
    demos=(40,),
    tasks=CONTROL_TASKS[:1],
    rollouts=20,
    policy_steps=150,
    film_tasks=(
        "tabletop/lift-red-cube",
        "tabletop/push-green-cube-pad",
        "tabletop/stack-blue-cube-red-cube",
        "tabletop/put-yellow-cylinder-tray",
        "tabletop/open-drawer",
        "tabletop/press-button",
    ),
)
