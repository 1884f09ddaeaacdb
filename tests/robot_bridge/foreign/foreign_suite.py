"""A suite of ours as a benchmark of the vla-evaluation-harness, and episodes of it as `vla eval` plays them."""

import json

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import IMAGE_RGB, LANGUAGE, RAW

from sim.suite import TEST_SEEDS, shared_suite

PLAYED = {}
"""(task, seed) → the actions that were carried out, its success: filled by `SuiteBenchmark`."""


class SuiteBenchmark(StepBenchmark):
    """Episode n of a task is the test scene n; states are sent when the model server asks for them."""

    render_backends = frozenset({"gpu", "cpu"})

    def __init__(self, tasks, options, send_state=False, send_wrist_image=False):
        super().__init__()
        self._tasks, self._send_state = tasks, send_state
        self._suite = shared_suite("tabletop", json.dumps(options, sort_keys=True))

    def get_tasks(self):
        return [{"name": task, "suite": "tabletop", "seed": TEST_SEEDS.start} for task in self._tasks]

    def reset(self, task):
        seed = task["seed"] + task["episode_idx"]
        self._suite.reset(task["name"], seed)
        self._actions = []
        PLAYED[task["name"], seed] = (self._actions, self._suite)

    def step(self, action):
        row = np.asarray(action["actions"])
        self._actions.append(row)
        self._suite.step(row)
        return StepResult(obs=None, reward=0.0, done=self._suite.success, info={})

    def make_obs(self, raw_obs, task):
        seen = self._suite.observe()
        told = {"images": dict(seen.images), "task_description": self._suite.instruction}
        return told | ({"states": seen.proprio} if self._send_state else {})

    def get_step_result(self, step_result):
        return {"success": self._suite.success}

    def get_metadata(self):
        return {"max_steps": self._suite.max_steps}

    def get_action_spec(self):
        return {"actions": RAW}

    def get_observation_spec(self):
        return {camera.name: IMAGE_RGB for camera in self._suite.spec.cameras} | {"language": LANGUAGE}
