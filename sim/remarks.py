"""What an honest reader would want to be told about an evaluation, in words."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sim.intervals import wilson

FEW_EPISODES = 20


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What an honest reader would want to be told about a report, as plain sentences."""
    tasks, mean, conditions = report["tasks"], report["mean"], report["conditions"]
    said = list(_fault_remarks(report))
    if report["better_than_random"] is None:
        said.append("No random floor was measured, so this does not show that the policy is better than random.")
    elif not report["better_than_random"]:
        said.append(
            f"The policy is no better than random: its interval {_range(mean)} reaches into that of random actions, "
            f"{_range(conditions['random']['mean'])}."
        )
    said += _task_remarks(tasks, conditions.get("random", {}).get("tasks", {}))
    if report["uses_instruction"] is not None:
        said.append(_instruction_remark(report["uses_instruction"]))
    if report["uses_prompt"] is not None:
        said.append(_prompt_remark(report["uses_prompt"]))
    expert = conditions.get("expert", {}).get("mean")
    if expert is not None and expert["successes"] < expert["episodes"]:
        said.append(
            f"The expert itself fails {expert['episodes'] - expert['successes']} of {expert['episodes']} episodes, "
            "so the ceiling is below 100%."
        )
    fewest = min(entry["episodes"] for entry in tasks.values())
    if fewest < FEW_EPISODES:
        said.append(f"Only {fewest} episode{'s' * (fewest > 1)} on some task: read its interval, not its rate.")
    return said


def above(policy: Mapping[str, Any], floor: Mapping[str, Any]) -> bool:
    """Whether the policy's interval lies above that of the floor's episodes, of those that could be judged."""
    judged = floor["episodes"] - floor.get("faults", 0)
    return bool(policy["wilson"][0] > wilson(floor["successes"], judged)[1])


def _fault_remarks(report: Mapping[str, Any]) -> Iterator[str]:
    disturbed = [cell for levels in report["robustness"].values() for cell in levels.values()]
    parts = [
        ("the policy", report),
        *report["conditions"].items(),
        *(("the disturbed policy", one) for one in disturbed),
    ]
    found: dict[str, Counter[str]] = {}
    for name, part in parts:
        rows = [row for entry in part["tasks"].values() for row in entry["episodes_detail"] if row["fault"]]
        found.setdefault(name, Counter()).update(row["fault"].partition(":")[0] for row in rows)
    for name, kinds in found.items():
        means = "left out of every comparison" if name in report["conditions"] else "counted as failures"
        for kind, count in kinds.items():
            yield f"{count} episode{'s' * (count > 1)} of {name} could not be judged, {means}: {kind}."


def _task_remarks(tasks: Mapping[str, Any], floors: Mapping[str, Any]) -> list[str]:
    said = []
    worst = min(tasks, key=lambda task: tasks[task]["success_rate"])
    if len(tasks) > 1 and tasks[worst]["success_rate"] < 1:
        entry = tasks[worst]
        said.append(f"Worst task: {worst}, {entry['successes']} of {entry['episodes']} ({_range(entry)}).")
    level = [task for task, entry in tasks.items() if task in floors and not above(entry, floors[task])]
    if level:
        said.append(f"Not shown to be above random on {len(level)} of {len(tasks)} tasks: {', '.join(level)}.")
    return said


def _instruction_remark(test: Mapping[str, Any]) -> str:
    told = (
        f"told a wrong instruction it succeeds in {test['rate_a']:.1%} of the same scenes, "
        f"told the right one in {test['rate_b']:.1%} (p {p_text(test['p_value'])})"
    )
    if test["difference"] > 0 and test["p_value"] < 0.05:
        return f"The policy uses its instruction: {told}."
    return f"It is not shown that the policy uses its instruction: {told}."


def _prompt_remark(test: Mapping[str, Any]) -> str:
    low, high = test["interval"]
    told = (
        f"with a blank prompt it succeeds in {test['rate_a']:.1%} of the same scenes, with the right one in "
        f"{test['rate_b']:.1%}: {test['difference']:+.1%} ({low:+.1%} – {high:+.1%})"
    )
    if low > 0:
        return f"The policy uses its prompt: {told}."
    return f"It is not shown that the policy uses its prompt: {told}."


def p_text(value: float) -> str:
    """A p value for people: ``= 0.031`` or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _range(entry: Mapping[str, Any]) -> str:
    low, high = entry["wilson"]
    return f"{low:.0%} to {high:.0%}"
