"""What a policy is shown in an evaluation: a film of its task or a picture of its goal, those of another, or nothing.

What says that a policy heeds its prompt is not its success but how much of it goes when the prompt says nothing.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np

from sim.results import Condition
from sim.suite import Suite
from vla.data.human_clips import VIDEO_SUFFIXES, VideoSpan
from vla.data.human_video import read_clips
from vla.errors import UnderstudyError
from vla.prompt import check_prompt, read_goal, read_prompt
from vla.types import VideoClip

CONTROLS: tuple[Condition, ...] = ("blank-prompt", "shuffled-prompt")
GOALS = ("expert", "grabber")
"""Who can leave the goal in a scene: the suite's scripted expert, a person with the arm's gripper and camera."""
SETTINGS = "settings.json"
"""Of a folder that `vla human` has written."""


def prompts_of(prompt: Path, instructions: Mapping[str, str]) -> dict[str, list[str]]:
    """Task → the films that show it: the video ``prompt``, or those of a folder whose words are its instruction.

    ``instructions``: task → words. Raises `UnderstudyError` when nothing shows a task, for a film that shows nothing,
    and for films of scenes that are trained on.
    """
    if prompt.suffix.lower() in VIDEO_SUFFIXES:
        clip_of(str(prompt))
        return {task: [str(prompt)] for task in instructions}
    if not prompt.is_dir():
        raise UnderstudyError(f"prompt={prompt} is neither a video nor a folder of captioned videos")
    settings = prompt / SETTINGS
    if settings.is_file() and json.loads(settings.read_text()).get("split") != "test":
        raise UnderstudyError(
            f"the films in {prompt} are of scenes that are trained on; make others: vla human split=test out=…"
        )
    films: dict[str, list[str]] = {}
    for clip in read_clips(prompt).clips:
        if isinstance(clip.source, VideoSpan) and clip.source.stop_s is None:
            films.setdefault(clip.caption, []).append(str(clip.source.path))
    found = {task: films.get(words, []) for task, words in instructions.items()}
    if lacking := [instructions[task] for task, paths in found.items() if not paths]:
        raise UnderstudyError(f"no film in {prompt} has the words {', '.join(map(repr, lacking))}")
    for path in {path for paths in found.values() for path in paths}:
        clip_of(path)
    return found


def chosen(films: Sequence[str], task: str, seed: int) -> str:
    """One of the films for a scene."""
    return films[int(np.random.default_rng([0x5F0, crc32(task.encode()), seed]).integers(len(films)))]


@lru_cache(maxsize=256)
def clip_of(path: str) -> VideoClip:
    """A video, as a policy is shown it; raises `UnderstudyError` for one in which nothing is to be seen."""
    clip = read_prompt(Path(path))
    try:
        check_prompt(clip)
    except UnderstudyError as error:
        raise UnderstudyError(f"{path}: {error}") from error
    return clip


def shown(path: str, condition: Condition, seed: int) -> VideoClip:
    """What is shown under a condition: the film at ``path``, the same out of order, or nothing of it."""
    clip = clip_of(path)
    if condition == "blank-prompt":
        return VideoClip(np.zeros_like(clip.frames), clip.fps)
    if condition == "shuffled-prompt":
        return VideoClip(np.random.default_rng([0x5F1, seed]).permutation(clip.frames), clip.fps)
    return clip


def pictured(goal: str, suite: Suite, camera: str, task: str, seed: int, condition: Condition) -> np.ndarray:
    """The goal as ``camera`` sees it, [H, W, 3]: the picture at a path, or what one of `GOALS` leaves in the scene.

    Leaves ``suite`` in another state. Under the condition ``blank-prompt`` it is black.
    """
    if condition == "blank-prompt":
        size = next((one.height, one.width) for one in suite.spec.cameras if one.name == camera)
        return np.zeros((*size, 3), np.uint8)
    if goal == "expert":
        picture = left_by_expert(suite, camera, task, seed)
    elif goal == "grabber":
        from sim.grabber import left_by_grabber

        picture = left_by_grabber(suite, camera, task, seed)
    else:
        picture = read_goal(Path(goal))
    return picture


def left_by_expert(suite: Suite, camera: str, task: str, seed: int) -> np.ndarray:
    """What ``camera`` sees when the scripted expert is done, or out of time: it fails in few scenes, not in none."""
    suite.reset(task, seed)
    act = suite.expert()
    while not suite.success and suite.steps < suite.max_steps:
        suite.step(act())
    return suite.observe().images[camera]
