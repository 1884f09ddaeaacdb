"""Who succeeds more often, and whether that is shown: the numbers of a leaderboard, as one dict.

All rows are judged on the same scenes, those that every run of every row was given. A rate's uncertainty has two
sources: the scenes are few, and another training would have given another policy. A row of one training can speak
of the first only.

    verdict      the outcome in words
    warnings     what stands in the way of comparing: scenes left out, other simulators
    remarks      what an honest reader would want to be told
    scenes       task → how many
    groups       difficulty → its tasks; empty unless all tasks are Meta-World's
    rows         best first; see `_row`
    references   "expert" and "random" → success on these scenes, where the runs have them
    pairs        every two rows: difference, interval, p_value, p_holm (adjusted for how many pairs there are), shown
    method       how all of it was judged, in words
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from sim.compare import LEVEL
from sim.intervals import holm, joined, mcnemar, newcombe, paired_trainings, percentiles, resampled_rates, wilson
from sim.leaderboard.cost import commands_of, cost_of
from sim.leaderboard.runs import Entrant, Run, Scene
from sim.leaderboard.words import METHOD, remarks, verdict, warnings
from sim.results import Condition, EpisodeResult
from sim.tasks.metaworld_sets import DIFFICULTIES, TASK_SETS
from vla.errors import UnderstudyError

REFERENCES: tuple[Condition, ...] = ("expert", "random")


def standings(entrants: Sequence[Entrant]) -> dict[str, Any]:
    """Judge all entrants on the scenes that they share; the shape stands at the top of this module.

    Raises `UnderstudyError` when they share none, or when a shared one was not the same scene after all.
    """
    scenes = shared_scenes(entrants)
    tasks = [task for task, _ in scenes]
    groups = groups_of(tasks)
    outcomes = {one.name: np.array([_outcomes(run, scenes) for run in one.runs]) for one in entrants}
    rates = _Drawn(outcomes, tasks)
    grouped = _Drawn(outcomes, tasks, groups) if groups else None
    rows = [_row(one, outcomes[one.name], scenes, rates, grouped) for one in entrants]
    rows.sort(key=lambda row: -row["success_rate"])
    pairs = _pairs([row["name"] for row in rows], outcomes, rates)
    for row in rows:
        above = sum(pair["shown"] for pair in pairs if pair["worse"] == row["name"])
        below = sum(pair["shown"] for pair in pairs if pair["better"] == row["name"])
        row["rank"] = [1 + above, len(rows) - below]
    found = {
        "scenes": dict(Counter(tasks)),
        "groups": groups,
        "rows": rows,
        "references": {name: entry for name in REFERENCES if (entry := _reference(entrants, name, scenes)) is not None},
        "pairs": pairs,
    }
    return {
        "verdict": verdict(found),
        "warnings": warnings(entrants, set(scenes)),
        "remarks": remarks(found, entrants),
        **found,
        "method": METHOD,
    }


def shared_scenes(entrants: Sequence[Entrant]) -> list[Scene]:
    """The scenes that every run was given, by task and seed."""
    runs = [run.episodes["policy"] for one in entrants for run in one.runs]
    if not runs:
        raise UnderstudyError("nothing to compare: give one run or more")
    shared = sorted(set(runs[0]).intersection(*runs[1:]))
    if not shared:
        raise UnderstudyError("the runs share no (task, seed): evaluate all with the same tasks and seeds")
    for scene in shared:
        began = {run[scene].initial_state for run in runs}
        if len(began) > 1:
            raise UnderstudyError(
                f"{scene[0]}, seed {scene[1]} began in initial states {sorted(began)}: "
                "it was not the same scene in all runs; evaluate them again"
            )
    return shared


def groups_of(tasks: Iterable[str]) -> dict[str, list[str]]:
    """Meta-World's difficulties of these tasks; none when some task is not Meta-World's."""
    present, found = set(tasks), {}
    for level in DIFFICULTIES:
        if names := present.intersection(TASK_SETS[f"metaworld/{level}"]):
            found[level] = sorted(names)
    return found if sum(map(len, found.values())) == len(present) else {}


def success_of(episode: EpisodeResult) -> bool:
    """An episode that could not be judged is no success."""
    return episode.success and not episode.fault


def _outcomes(run: Run, scenes: Sequence[Scene]) -> list[bool]:
    return [success_of(run.episodes["policy"][scene]) for scene in scenes]


class _Drawn:
    """The bootstrap's success rates of all entrants, from the same draws of scenes; see `resampled_rates`."""

    def __init__(
        self, outcomes: Mapping[str, np.ndarray], tasks: Sequence[str], groups: Mapping[str, list[str]] | None = None
    ) -> None:
        weights = None
        if groups:  # each group as much as each other
            level = {task: name for name, names in groups.items() for task in names}
            scenes = Counter(level[task] for task in tasks)
            weights = [1 / scenes[level[task]] for task in tasks]
        rates = resampled_rates(list(outcomes.values()), tasks, weights=weights)
        self._rates = dict(zip(outcomes, rates.T))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._rates[name]


def _row(
    entrant: Entrant, outcome: np.ndarray, scenes: Sequence[Scene], rates: _Drawn, grouped: _Drawn | None
) -> dict[str, Any]:
    """A row: its counts over all trainings and scenes, per task and per group, its two means, cost and commands.

    ``interval``: Wilson's of one training's episodes; of several trainings the bootstrap's, or Wilson's where that is
    wider: what it would be if trainings did not differ.
    """
    tasks = np.array([task for task, _ in scenes])
    groups = groups_of(tasks)
    counted = _counts(outcome)
    low, high = counted["wilson"]
    if len(outcome) > 1:
        drawn = percentiles(rates[entrant.name])
        low, high = min(low, drawn[0]), max(high, drawn[1])
    by_task = {str(task): _counts(outcome[:, tasks == task]) for task in dict.fromkeys(tasks)}
    by_group = {name: _counts(outcome[:, np.isin(tasks, names)]) for name, names in groups.items()}
    faults = Counter(fault for run in entrant.runs for scene in scenes if (fault := _fault(run, scene)))
    return {
        "name": entrant.name,
        "trainings": len(outcome),
        **counted,
        "interval": [low, high],
        "each_training": [float(rate) for rate in outcome.mean(axis=1)],
        "mean_over_tasks": fmean(entry["success_rate"] for entry in by_task.values()),
        "mean_over_groups": fmean(entry["success_rate"] for entry in by_group.values()) if by_group else None,
        "mean_over_groups_interval": _over_groups(by_group, grouped[entrant.name]) if grouped is not None else None,
        "tasks": by_task,
        "groups": by_group,
        "faults": dict(faults),
        "cost": cost_of(entrant),
        "commands": [commands_of(run) for run in entrant.runs],
        "films": _films(entrant, scenes),
    }


def _over_groups(groups: Mapping[str, Mapping[str, Any]], drawn: np.ndarray) -> list[float]:
    """Of the mean of the groups' rates: the bootstrap's, or Wilson's joined where that is wider."""
    counts = [(1 / len(groups), one["successes"], one["episodes"]) for one in groups.values()]
    both = percentiles(drawn), joined(counts)
    return [min(low for low, _ in both), max(high for _, high in both)]


def _counts(outcome: np.ndarray) -> dict[str, Any]:
    episodes, successes = int(outcome.size), int(outcome.sum())
    interval = list(wilson(successes, episodes))
    return {"episodes": episodes, "successes": successes, "success_rate": successes / episodes, "wilson": interval}


def _fault(run: Run, scene: Scene) -> str:
    return run.episodes["policy"][scene].fault.partition(":")[0]


def _films(entrant: Entrant, scenes: Sequence[Scene]) -> dict[str, dict[str, Any]]:
    """Task → "success" and "failure" → the first episode of each kind that was filmed, by any of the trainings."""
    found: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(entrant.runs):
        for scene in scenes:
            episode = run.episodes["policy"][scene]
            if episode.film:
                kind = "success" if success_of(episode) else "failure"
                about = {"seed": scene[1], "steps": episode.steps, "training": number}
                shown = {"folder": str(run.folder), "film": episode.film, **about}
                found.setdefault(scene[0], {}).setdefault(kind, shown)
    return found


def _reference(entrants: Sequence[Entrant], condition: Condition, scenes: Sequence[Scene]) -> dict[str, Any] | None:
    """Who needs no policy, on the shared scenes; every scene once, from the first run in which it could be judged."""
    played: dict[Scene, EpisodeResult] = {}
    for entrant in entrants:
        for run in entrant.runs:
            played = {scene: one for scene, one in run.episodes[condition].items() if not one.fault} | played
    known = {scene: played[scene].success for scene in scenes if scene in played}
    if not known:
        return None
    by_task = {
        task: _counts(np.array([success for (name, _), success in known.items() if name == task]))
        for task in dict.fromkeys(task for task, _ in known)
    }
    return {**_counts(np.array(list(known.values()))), "tasks": by_task}


def _pairs(names: Sequence[str], outcomes: Mapping[str, np.ndarray], rates: _Drawn) -> list[dict[str, Any]]:
    """Every two rows; ``names`` from the best to the worst, so that no difference is negative."""
    pairs = []
    for better, worse in combinations(names, 2):
        a, b = outcomes[worse], outcomes[better]
        if len(a) == len(b) == 1:
            only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
            interval = newcombe(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()))
            p_value = mcnemar(only_a, only_b)
        else:
            interval, p_value = paired_trainings(a, b, rates[better] - rates[worse])
        difference = float(b.mean() - a.mean())
        told = {"difference": difference, "interval": list(interval), "p_value": p_value}
        pairs.append({"better": better, "worse": worse, **told})
    for pair, p_holm in zip(pairs, holm([pair["p_value"] for pair in pairs])):
        pair |= {"p_holm": p_holm, "shown": p_holm < LEVEL and pair["difference"] > 0}
    return pairs
