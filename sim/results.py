"""What an evaluation found, in numbers that anyone can check: counts, Wilson intervals and paired tests.

    [EpisodeResult, …] ─► summarize ─► report (a dict) ─► write_json ─► report.json ─► read_report ─► episodes_of
                                            └─► sim.report.write_report ─► report.html

A report has this shape (`summarize` fills all but what the caller passes on):

    tasks               task → instruction, episodes, successes, faults, success_rate, wilson [low, high], median_steps
                        (of its successes), episodes_detail: one row per episode
    mean                the same counts pooled over the tasks
    conditions          "random" | "expert" | "wrong-instruction" | "blank-prompt" | "shuffled-prompt" → {tasks, mean,
                        latency_ms}, same shapes
    better_than_random  lower end of the policy's pooled interval above the upper end of random's; null unmeasured
                        (what could not be judged speaks for nobody: in floor and controls it is left out of comparing)
    uses_instruction    the paired test of wrong-instruction (a) against policy (b); null unmeasured
    uses_prompt         the paired test of blank-prompt (a) against policy (b), of a policy that is shown; else null
    latency_ms          p50, p95, p99, mean, max [ms] and count, one sample per inference
    robustness          axis → level → {tasks, mean, test}: the paired test of the policy (a) against itself in a
                        disturbed world (b); empty where none was played
    faults              what made episodes unfit to be judged → how many of any condition
    remarks             plain sentences, the unpleasant ones included
    wall_s, provenance  as the caller measured them
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np

from sim.intervals import mcnemar, newcombe, wilson
from sim.remarks import above, remarks
from vla.errors import UnderstudyError

Condition = Literal["policy", "random", "expert", "wrong-instruction", "blank-prompt", "shuffled-prompt", "disturbed"]
CONDITIONS: tuple[Condition, ...] = tuple(name for name in get_args(Condition) if name != "disturbed")
"""Those of which there is one; there are as many disturbed ones as axes and levels (`sim.robustness`)."""
ROW = ("seed", "initial_state", "success", "steps")
PAIRED_METHOD = "Exact McNemar test, Newcombe's score interval for paired proportions (1998, method 10)"


@dataclass(frozen=True)
class EpisodeResult:
    """One judged episode.

    ``instruction``: what the policy was told; ``condition``: who acted, and whether it was told the truth;
    ``initial_state``: which scene it began in; ``latency_ms``: one entry [ms] per inference;
    ``film``: path of its film relative to the report, when it was filmed; ``fault``: why it could not be judged (it
    counts as no success, and is named), "" when it was; ``disturbed``: the axis and level of a disturbed world.
    """

    task: str
    instruction: str
    condition: Condition
    seed: int
    initial_state: int
    success: bool
    steps: int
    latency_ms: tuple[float, ...] = ()
    film: str | None = None
    fault: str = ""
    disturbed: str = ""


@dataclass(frozen=True)
class PairedTest:
    """Two policies on the same scenes: a 2 x 2 count, its exact p value, and the difference ``rate_b - rate_a``."""

    pairs: int
    both: int
    only_a: int
    only_b: int
    neither: int
    rate_a: float
    rate_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    method: str = PAIRED_METHOD


def latency_table(latencies_ms: Iterable[float]) -> dict[str, float | int | None]:
    """p50, p95, p99, mean and max in milliseconds, and the count; all but the count are None without a sample."""
    samples = np.asarray(list(latencies_ms), dtype=np.float64)
    if samples.size == 0:
        return {"p50": None, "p95": None, "p99": None, "mean": None, "max": None, "count": 0}
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(samples, (50, 95, 99)))
    mean, longest = round(float(samples.mean()), 3), round(float(samples.max()), 3)
    return {"p50": p50, "p95": p95, "p99": p99, "mean": mean, "max": longest, "count": int(samples.size)}


def paired_test(a: Sequence[EpisodeResult], b: Sequence[EpisodeResult]) -> PairedTest:
    """Compare two runs on the episodes that share a (task, seed); the rest is left out.

    Raises `UnderstudyError` when nothing is shared, when one run holds an episode twice, or when the same
    seed began in different scenes.
    """
    first, second = _by_scene(a), _by_scene(b)
    shared = [key for key in first if key in second]
    if not shared:
        raise UnderstudyError("the two runs share no (task, seed): evaluate both with the same tasks and seeds")
    for key in shared:
        if first[key].initial_state != second[key].initial_state:
            raise UnderstudyError(
                f"{key[0]}, seed {key[1]} began in initial state {first[key].initial_state} in one run and "
                f"{second[key].initial_state} in the other: they are not the same scene; evaluate both again"
            )
    counts = Counter((first[key].success, second[key].success) for key in shared)
    both, only_a, only_b, neither = (
        counts[key] for key in ((True, True), (True, False), (False, True), (False, False))
    )
    pairs = len(shared)
    return PairedTest(
        pairs=pairs,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        rate_a=(both + only_a) / pairs,
        rate_b=(both + only_b) / pairs,
        difference=(only_b - only_a) / pairs,
        interval=newcombe(both, only_a, only_b, neither),
        p_value=mcnemar(only_a, only_b),
    )


def _by_scene(results: Sequence[EpisodeResult]) -> dict[tuple[str, int], EpisodeResult]:
    scenes = {(result.task, result.seed): result for result in results}
    if len(scenes) != len(results):
        (task, seed), count = Counter((result.task, result.seed) for result in results).most_common(1)[0]
        raise UnderstudyError(f"{task}, seed {seed} is there {count} times: an episode counts once per condition")
    return scenes


def summarize(
    results: Sequence[EpisodeResult],
    *,
    wall_s: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report of an evaluation; see the top of this module for its shape.

    Raises `UnderstudyError` without an episode of the condition ``policy``, or with one twice.
    """
    groups = {condition: [r for r in results if r.condition == condition] for condition in CONDITIONS}
    if not groups["policy"]:
        raise UnderstudyError("nothing to report: there is no episode of the condition 'policy'")
    policy = _condition(groups["policy"])
    others = {name: _condition(group) for name, group in groups.items() if name != "policy" and group}
    report: dict[str, Any] = {
        "tasks": policy["tasks"],
        "mean": policy["mean"],
        "better_than_random": _better_than(others.get("random"), policy),
        "uses_instruction": None,
        "uses_prompt": None,
        "conditions": others,
        "latency_ms": policy["latency_ms"],
        "robustness": _robustness(groups["policy"], [one for one in results if one.condition == "disturbed"]),
        "faults": dict(Counter(one.fault.partition(":")[0] for one in results if one.fault)),
        "wall_s": dict(wall_s or {}),
        "provenance": dict(provenance or {}),
    }
    for name, against in (("uses_instruction", "wrong-instruction"), ("uses_prompt", "blank-prompt")):
        if judged := [one for one in groups[against] if not one.fault]:
            report[name] = asdict(paired_test(judged, groups["policy"]))
    report["remarks"] = remarks(report)
    return report


def _robustness(sound: Sequence[EpisodeResult], disturbed: Sequence[EpisodeResult]) -> dict[str, Any]:
    grouped: dict[str, list[EpisodeResult]] = {}
    for one in disturbed:
        grouped.setdefault(one.disturbed, []).append(one)
    grid: dict[str, dict[str, Any]] = {}
    for name, episodes in grouped.items():
        axis, _, level = name.partition(":")
        counted = _condition(episodes)
        test = asdict(paired_test(sound, episodes))
        grid.setdefault(axis, {})[level] = {"tasks": counted["tasks"], "mean": counted["mean"], "test": test}
    return grid


def _better_than(floor: Mapping[str, Any] | None, policy: Mapping[str, Any]) -> bool | None:
    if floor is None or floor["mean"]["faults"] == floor["mean"]["episodes"]:
        return None
    return above(policy["mean"], floor["mean"])


def _condition(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    _by_scene(results)
    grouped: dict[str, list[EpisodeResult]] = {}
    for result in results:
        grouped.setdefault(result.task, []).append(result)
    return {
        "tasks": {task: _task(group) for task, group in grouped.items()},
        "mean": _counts(results),
        "latency_ms": latency_table(value for result in results for value in result.latency_ms),
    }


def _counts(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    episodes, successes = len(results), sum(result.success for result in results)
    rate, interval = successes / episodes, list(wilson(successes, episodes))
    faults = sum(bool(result.fault) for result in results)
    return {"episodes": episodes, "successes": successes, "faults": faults, "success_rate": rate, "wilson": interval}


def _task(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    steps = [result.steps for result in results if result.success]
    return {
        "instruction": results[0].instruction,
        **_counts(results),
        "median_steps": float(median(steps)) if steps else None,
        "episodes_detail": [_detail(result) for result in sorted(results, key=lambda result: result.seed)],
    }


def _detail(result: EpisodeResult) -> dict[str, Any]:
    row = asdict(result)
    del row["task"], row["condition"]
    row["latency_ms"] = [round(float(value), 3) for value in result.latency_ms]
    return row


def episodes_of(report: Mapping[str, Any], condition: Condition = "policy") -> list[EpisodeResult]:
    """The episodes behind a report: the inverse of `summarize`. Empty when the condition was not run."""
    part = report if condition == "policy" else report.get("conditions", {}).get(condition, {"tasks": {}})
    found = []
    for task, entry in part["tasks"].items():
        for row in entry["episodes_detail"]:
            film, told = row.get("film"), row.get("instruction", entry.get("instruction", ""))
            found.append(
                EpisodeResult(
                    task=task,
                    instruction=told,
                    condition=condition,
                    seed=int(row["seed"]),
                    initial_state=int(row["initial_state"]),
                    success=bool(row["success"]),
                    steps=int(row["steps"]),
                    latency_ms=tuple(row.get("latency_ms", ())),
                    film=film,
                    fault=row.get("fault", ""),
                    disturbed=row.get("disturbed", ""),
                )
            )
    return found


def write_json(path: str | Path, report: Mapping[str, Any]) -> Path:
    """Write ``report`` as readable JSON, whole or not at all; NaN and infinity become null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(_lay_out(_plain(report)) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _lay_out(value: Any, depth: int = 0) -> str:
    """JSON with one line per row of numbers: an evaluation has thousands, and people read these files."""
    text = json.dumps(value, ensure_ascii=False)
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    is_row = not any(isinstance(item, dict) or (isinstance(item, list) and len(text) > 1000) for item in items)
    if is_row or _is_detail(value):
        return text
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_lay_out(item, depth + 1)}" for key, item in value.items()]
    else:
        lines = [_lay_out(item, depth + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{pad}" + f",\n{pad}".join(lines) + f"\n{end}{closing}"


def _is_detail(value: Any) -> bool:
    return isinstance(value, dict) and "seed" in value and "success" in value


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report from ``report.json``, or from the folder that holds one.

    Raises `UnderstudyError` when there is none, or when it is not the report of an evaluation: the counts of
    every task must agree with its episodes.
    """
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise UnderstudyError(f"there is no report at {file}; give a report.json or the folder that holds one")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnderstudyError(f"{file} is not a report: it is not JSON ({error})") from error
    complaint = _complaint(report)
    if complaint:
        raise UnderstudyError(f"{file} is not the report of an evaluation: {complaint}; `vla eval` writes one")
    return report


def _complaint(report: Any) -> str | None:
    if not isinstance(report, dict) or not isinstance(report.get("tasks"), dict) or not report["tasks"]:
        return "it has no 'tasks'"
    for task, entry in report["tasks"].items():
        details = entry.get("episodes_detail") if isinstance(entry, dict) else None
        if not isinstance(details, list):
            return f"{task} has no 'episodes_detail'"
        if not all(isinstance(row, dict) and isinstance(row.get(name), int) for row in details for name in ROW):
            return f"an episode of {task} lacks its {', '.join(ROW)}, as whole numbers or true and false"
        counts = len(details), sum(bool(row["success"]) for row in details)
        if counts != (entry.get("episodes"), entry.get("successes")):
            return f"{task} claims other counts than its episodes show ({counts[1]} of {counts[0]})"
    return None
