"""What a leaderboard says in words: who leads and whether that is shown, what was left out, what else to know."""

from collections.abc import Mapping, Sequence
from typing import Any

from sim.compare import LEVEL
from sim.intervals import DRAWS
from sim.leaderboard.runs import Entrant, Run, Scene
from sim.remarks import FEW_EPISODES

FEW_TRAININGS = 5
METHOD = {
    "Success": "successes / episodes, over all trainings and all shared scenes; an episode that could not be judged is "
    "no success",
    "Interval of one training": "Wilson's score interval, 95%, of its episodes",
    "Interval of several trainings": f"hierarchical bootstrap, 95% percentiles of {DRAWS} draws: trainings, then "
    "scenes within their task, one less of each than there are (Rao & Wu 1988); Wilson's interval where that is wider",
    "A difference is shown": f"when its p value, adjusted for the number of pairs (Holm), is below {LEVEL:.0%}",
    "Two rows of one training": "exact McNemar test on the shared scenes, Newcombe's interval of the difference (1998, "
    "method 10)",
    "Rows of several trainings": "the bootstrap's standard error of the difference on the same draws of scenes, and "
    "Student's t with Satterthwaite's degrees of freedom",
    "Mean over tasks": "of the tasks' success rates, each task as much as each other",
    "Mean over groups": "of the difficulties' success rates, each as much as each other, however few tasks it has: "
    "easy, medium, hard, very hard are 28, 11, 6 and 5 of MT50's (Seo et al. 2022), and SmolVLA's average is this one; "
    "interval: the bootstrap's, or Wilson's of the difficulties joined (Zou & Donner 2008) where that is wider",
    "Training time": "of the checkpoint and of those whose weights it began with; not of a representation under it",
}
"""How a leaderboard is judged."""


def verdict(board: Mapping[str, Any]) -> str:
    """Who leads, by how much, and over whom the lead is shown; ``board`` has rows, pairs and scenes."""
    rows, scenes = board["rows"], sum(board["scenes"].values())
    first = rows[0]
    low, high = (f"{100 * end:.0f}" for end in first["interval"])
    rate = f"{first['success_rate']:.1%} of {'the same ' if len(rows) > 1 else ''}{scenes} scenes ({low} to {high}%)"
    if len(rows) == 1:
        return f"{first['name']} succeeds in {rate}."
    ahead = {pair["worse"]: pair["shown"] for pair in board["pairs"] if pair["better"] == first["name"]}
    shown, open_ = ([name for name, is_shown in ahead.items() if is_shown is wanted] for wanted in (True, False))
    if not open_:
        return f"{first['name']} leads with {rate}, and its lead over every other is shown."
    if not shown:
        return f"{first['name']} is ahead with {rate}, but its lead over none of the others is shown."
    return f"{first['name']} leads with {rate}. Its lead is shown over {listed(shown)}; over {listed(open_)} it is not."


def warnings(entrants: Sequence[Entrant], shared: set[Scene]) -> list[str]:
    """What stands in the way of comparing: scenes that only some runs have, simulators that are not the same."""
    said = []
    for entrant in entrants:
        given = set().union(*(run.episodes["policy"] for run in entrant.runs))
        if extra := given - shared:
            tasks = ", ".join(sorted({task for task, _ in extra}))
            counts = f"{len(extra)} of the {len(given)} scenes of {entrant.name}"
            said.append(f"{counts} are not in all runs: LEFT OUT ({tasks}).")
    for name in ("suite", "fingerprint"):
        held = _held_by(entrants, name)
        if len(held) > 1:
            kinds = "; ".join(f"{value}: {listed(names)}" for value, names in held.items())
            said.append(f"The simulators differ ({name} {kinds}): a difference may be theirs.")
    late = [one.name for one in entrants if any("charged_latency_ms" in run.provenance for run in one.runs)]
    if 0 < len(late) < len(entrants):
        said.append(f"The world moved on while these were thinking, and waited for the others: {listed(late)}.")
    return said


def _held_by(entrants: Sequence[Entrant], name: str) -> dict[str, list[str]]:
    """Value → whose runs have it; of those that say."""
    held: dict[str, list[str]] = {}
    for entrant in entrants:
        told = [run.provenance[name] for run in entrant.runs if run.provenance.get(name) is not None]
        for value in dict.fromkeys(map(str, told)):
            held.setdefault(value, []).append(entrant.name)
    return held


def remarks(board: Mapping[str, Any], entrants: Sequence[Entrant]) -> list[str]:
    """What an honest reader would want to be told, as plain sentences."""
    rows, floor = board["rows"], board["references"].get("random")
    said = []
    for row in rows:
        for fault, count in row["faults"].items():
            counts = f"{row['name']}: {count} of {row['episodes']} episodes"
            said.append(f"{counts} could not be judged, and count as failures: {fault}.")
    if floor is None:
        said.append("No random floor was measured, so this does not show that any row is better than random.")
    else:
        level = [row["name"] for row in rows if row["interval"][0] <= floor["wilson"][1]]
        if level:
            said.append(f"Not shown to be above random actions ({floor['success_rate']:.1%}): {listed(level)}.")
    said += _about_trainings(rows)
    data = _data_of(entrants)
    if len(data) > 1:
        kinds = "; ".join(f"{value}: {listed(names)}" for value, names in data.items())
        said.append(f"Not all were trained on the same demonstrations ({kinds}).")
    fewest = min(board["scenes"].values())
    if fewest < FEW_EPISODES:
        said.append(f"Only {fewest} scene{'s' * (fewest > 1)} of some task: read its interval, not its rate.")
    return said


def _about_trainings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    once = [row["name"] for row in rows if row["trainings"] == 1]
    few = [row["name"] for row in rows if 1 < row["trainings"] < FEW_TRAININGS]
    said = []
    if once:
        said.append(
            f"Trained once: {listed(once)}. What is shown holds for that checkpoint; trained with another seed it may "
            "succeed more often or less, and no interval here knows by how much."
        )
    if few:
        counts = sorted({row["trainings"] for row in rows if row["name"] in few})
        said.append(
            f"How much trainings differ is hardly known from {' or '.join(map(str, counts))} of them: differences of "
            "such rows are judged by Student's t, which asks for more."
        )
    return said


def _data_of(entrants: Sequence[Entrant]) -> dict[str, list[str]]:
    """Hash of the training data → who learned from it; of those who say."""
    held: dict[str, list[str]] = {}
    for entrant in entrants:
        for value in dict.fromkeys(_data_hash(run) for run in entrant.runs):
            if value:
                held.setdefault(value, []).append(entrant.name)
    return held


def _data_hash(run: Run) -> str:
    data = run.training.get("data")
    return str(data.get("hash") or "") if isinstance(data, Mapping) else ""


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
