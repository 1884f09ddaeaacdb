"""Env-steps a second of an evaluation: ours, gymnasium's `AsyncVectorEnv` and LeRobot's, each with two processes.

The same task, pictures and policy: Meta-World's push through one camera at 96 and at 224 px, and a CogACT of the
``cpu`` preset, untrained, that is asked every four steps. Each simulates in two processes; all are warm, and time runs
while they play. Three pictures are compared:

    same pictures      our suite in gymnasium's and LeRobot's hands: what the way of playing is worth
    as they come       Meta-World's own environment and renderer in gymnasium's; LeRobot's in LeRobot's (480 px)

Ours draws a picture when the policy asks for one, and lets no episode wait for another; theirs draw one at every step,
and step in time with each other.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np

from policies.policy import load_policy
from policies.train import TrainConfig, checked, training_windows
from sim import collect
from sim.rollout import Scene, Setting, play_all
from sim.suite import TEST_SEEDS, make_suite
from vla.bench import TOO_NOISY, Row, parser, write_bench
from vla.config import load
from vla.data.lerobot import open_dataset
from vla.types import Observation, Task

TASK = "metaworld/push"
SIZES = (96, 224)
WORKERS = 2
EPISODE = 300


def untrained(px: int, folder: Path) -> Path:
    """A policy that looks at pictures of ``px``."""
    suite = {"profile": "fast", "image_size": px, "cameras": ["front"]}
    data = collect.run(collect.CollectConfig((TASK,), episodes=1, out=folder / "data", suite=suite, workers=0, noise=0))
    given = ["policy=cogact", "preset=cpu", f"policy.backbone.image_size={px}", f"data={data}"]
    config = load(TrainConfig, "train", given)
    family, settings, _ = checked(config.policy, config.trainer)
    dataset = open_dataset(data)
    policy = family.create(settings, dataset.spec, training_windows(dataset, settings, holdout=0))
    policy.save(folder / "policy")
    return folder / "policy"


class Ours:
    """`play_all`: results come when episodes end; what is timed begins when all workers have ended one."""

    def __init__(self, checkpoint: Path, px: int, *, batch: int) -> None:
        options = json.dumps({"profile": "fast", "image_size": px, "cameras": ["front"]})
        setting, self._batch = Setting(options, str(checkpoint)), batch
        self._scene = partial(Scene, setting, TASK, TASK, "policy")

    def __call__(self, steps: int) -> float:
        """Env-steps a second over ``steps``."""
        first = WORKERS if self._batch == 1 else 2 * self._batch
        scenes = [self._scene(TEST_SEEDS[number]) for number in range(first + -(-steps // EPISODE // first) * first)]
        played = play_all(scenes, workers=WORKERS, batch=self._batch)
        for _ in range(first):
            next(played)
        began = perf_counter()
        done = sum(one.result.steps for one in played)
        return done / (perf_counter() - began)


class InGymnasium:
    """`AsyncVectorEnv` of two, and our policy in this process, asked for both at once."""

    def __init__(self, checkpoint: Path, envs: gym.vector.VectorEnv, seen: Callable[[Any, int], dict]) -> None:
        self._envs = envs
        self._policy, self._seen = load_policy(checkpoint), seen
        self._sessions = [self._policy.session() for _ in range(WORKERS)]
        self._at, self._chunks = count(), np.empty(0)
        self._observation, _ = self._envs.reset(seed=list(range(WORKERS)))
        for number, session in enumerate(self._sessions):
            session.reset(Task("push the puck forward to the goal"), seed=number)

    def __call__(self, steps: int) -> float:
        """Env-steps a second over ``steps``."""
        every, began = self._policy.spec.exec_horizon, perf_counter()
        for _ in range(steps // WORKERS):
            row = next(self._at) % every
            if row == 0:
                asked = [(Observation(**self._seen(self._observation, n)), None) for n in range(WORKERS)]
                self._chunks = [one.actions for one in self._policy.infer_together(self._sessions, asked)]
            self._observation, *_ = self._envs.step(np.stack([chunk[row] for chunk in self._chunks]))
        return steps / (perf_counter() - began)

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


def our_envs(px: int) -> gym.vector.VectorEnv:
    """Our suite as environments of gymnasium's."""
    from sim.lerobot_plugin.environment import SuiteEnv

    make = partial(make_suite, "metaworld", profile="fast", image_size=px, cameras=["front"])
    return gym.vector.AsyncVectorEnv([partial(SuiteEnv, TASK, make)] * WORKERS, context="forkserver")


def of_ours(observation: dict[str, Any], number: int) -> dict[str, Any]:
    """What the policy sees of it."""
    proprio = observation["agent_pos"][number]
    return {"images": {"front": observation["pixels"]["front"][number]}, "proprio": proprio, "stamp_ns": 0}


def own_envs(px: int) -> gym.vector.VectorEnv:
    """Meta-World's environment with gymnasium's own pictures."""
    about = {"env_name": "push-v3", "render_mode": "rgb_array", "width": px, "height": px, "camera_name": "corner2"}
    seeing = partial(gym.wrappers.AddRenderObservation, render_only=False)
    way = {"vectorization_mode": "async", "vector_kwargs": {"context": "forkserver"}, "wrappers": [seeing]}
    return gym.make_vec("metaworld:Meta-World/MT1", num_envs=WORKERS, **way, **about)


def of_own(observation: dict[str, Any], number: int) -> dict[str, Any]:
    """What the policy sees of it."""
    proprio = observation["state"][number][:4].astype(np.float32)
    return {"images": {"front": observation["pixels"][number]}, "proprio": proprio, "stamp_ns": 0}


class InLeRobot:
    """LeRobot's `rollout`, as its ``lerobot-eval`` calls it, with two environments side by side."""

    def __init__(self, checkpoint: Path, config: Any, renamed: dict[str, str]) -> None:
        from lerobot.configs import PreTrainedConfig
        from lerobot.envs.factory import make_env, make_env_pre_post_processors
        from lerobot.policies import get_policy_class, make_pre_post_processors

        settings = PreTrainedConfig.from_pretrained(checkpoint)
        made = make_env(config, n_envs=WORKERS, use_async_envs=True)
        ((self._envs,),) = [list(tasks.values()) for tasks in made.values()]
        self._policy = get_policy_class(settings.type).from_pretrained(checkpoint, config=settings)
        theirs = make_env_pre_post_processors(env_cfg=config, policy_cfg=settings)
        before, after = make_pre_post_processors(settings, str(checkpoint))
        self._through = (*theirs, lambda seen: before({renamed.get(key, key): seen[key] for key in seen}), after)
        self._seed, self._longest, call = count(), 0, self._envs.call

        def told(name: str, *given: object) -> tuple[Any, ...]:
            return (self._longest,) * WORKERS if name == "_max_episode_steps" else call(name, *given)

        self._envs.call = told

    def __call__(self, steps: int) -> float:
        """Env-steps a second over ``steps``, of one episode in each environment."""
        from lerobot.scripts.lerobot_eval import rollout

        self._longest = steps // WORKERS
        seeds, began = [next(self._seed) for _ in range(WORKERS)], perf_counter()
        played = rollout(self._envs, self._policy, *self._through, seeds=seeds)
        return played["action"].shape[1] * WORKERS / (perf_counter() - began)

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


OURS, BATCHED = "ours", "ours, one policy for 4 episodes"
PEERS = ("AsyncVectorEnv, same pictures", "LeRobot's evaluation, same pictures")
AS_THEY_COME = ("AsyncVectorEnv as it comes", "LeRobot's evaluation as it comes (480 px)")
RATIOS = ("rollout_vs_asyncvectorenv", "rollout_vs_lerobot_eval")


@contextmanager
def candidates(px: int, folder: Path) -> Iterator[dict[str, Callable[[int], float]]]:
    """All that play, by name."""
    from lerobot.envs.configs import MetaworldEnv

    from policies.lerobot_plugin.command import export
    from sim.lerobot_plugin import UnderstudyEnvConfig

    checkpoint = untrained(px, folder)
    export(checkpoint)
    ours = UnderstudyEnvConfig(task=TASK, suite={"profile": "fast", "image_size": px, "cameras": ["front"]})
    theirs = MetaworldEnv(task="metaworld-push-v3", obs_type="pixels_agent_pos")
    made = {
        OURS: Ours(checkpoint, px, batch=1),
        BATCHED: Ours(checkpoint, px, batch=2),
        PEERS[0]: InGymnasium(checkpoint, our_envs(px), of_ours),
        PEERS[1]: InLeRobot(checkpoint, ours, {}),
        AS_THEY_COME[0]: InGymnasium(checkpoint, own_envs(px), of_own),
        AS_THEY_COME[1]: InLeRobot(checkpoint, theirs, {"observation.image": "observation.images.front"}),
    }
    try:
        yield made
    finally:
        for one in made.values():
            if not isinstance(one, Ours):
                one.close()


def main(argv: list[str]) -> int:
    """``vla bench rollout``: a few minutes on two cores."""
    arguments = parser("rollout", __doc__)
    arguments.add_argument("--rounds", type=int, default=3, help="of all, one after the other")
    arguments.add_argument("--steps", type=int, default=600, help="env-steps of each in a round")
    arguments.add_argument("--slow-steps", type=int, default=40, help="of those that come with their own renderer")
    given = arguments.parse_args(argv)
    os.environ["LP_NUM_THREADS"] = "1"  # as in our workers
    rows, ratios, noise = [], {}, []
    for px in SIZES:
        with TemporaryDirectory() as folder, candidates(px, Path(folder)) as players:
            rates: dict[str, list[float]] = {name: [] for name in players}
            for _ in range(given.rounds):
                for name, play in players.items():
                    rates[name].append(play(given.slow_steps if name in AS_THEY_COME else given.steps))
        best = OURS if median(rates[OURS]) >= median(rates[BATCHED]) else BATCHED
        for peers, suffix in ((PEERS, ""), (AS_THEY_COME, "_as_it_comes")):
            for ratio, peer in zip(RATIOS, peers, strict=True):
                pairs = zip(rates[best], rates[peer], strict=True)
                ratios[f"{ratio}{suffix}_{px}px"] = median(own / their for own, their in pairs)
        rows += [Row(f"{name}, {px} px", median(each), "env-steps/s") for name, each in rates.items()]
        noise.append((max(rates[PEERS[0]]) - min(rates[PEERS[0]])) / median(rates[PEERS[0]]))
    notes = (f"two processes each, policy included; the median of {given.rounds} rounds",)
    write_bench("rollout", rows, ratios, given.json, noisy=max(noise) > TOO_NOISY, notes=notes)
    return 0
