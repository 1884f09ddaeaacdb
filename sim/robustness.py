"""How much of a policy's success is left when the world or its senses differ: a grid of axes and levels.

Every cell plays the scenes of the evaluation again with one thing changed (`sim.disturbance`), so that it is compared
with the undisturbed policy scene by scene.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sim.disturbance import AXES, Disturbance
from sim.report_charts import difference_bar
from vla.errors import UnderstudyError, unknown
from vla.markup import Markup, el
from vla.types import PolicySpec

if TYPE_CHECKING:
    from rich.table import Table

    from sim.rollout import Scene

ALL = "all"
OF_WORDS = ("instruction-blank", "instruction-swapped")


def disturbed(
    scenes: Sequence["Scene"], axes: Sequence[str], policy: PolicySpec, wrong: Mapping[str, str]
) -> list["Scene"]:
    """The scenes of the condition ``policy`` under every level of every axis; ``wrong``: task → another to be told."""
    told = "instruction" in policy.accepts
    chosen = [axis for axis in AXES if told or axis not in OF_WORDS] if ALL in axes else list(axes)
    levels = AXES | {"camera-dropped": len(policy.cameras)}
    for axis in chosen:
        if axis not in AXES:
            raise unknown("axis", axis, (*AXES, ALL))
        if axis in OF_WORDS and not told:
            raise UnderstudyError(f"{axis}: this policy is not told its task in words, it accepts {policy.accepts}")
    made = []
    for by in (Disturbance(axis, level) for axis in chosen for level in range(1, levels[axis] + 1)):
        for scene in scenes:
            if scene.condition == "policy" and (by.axis != "instruction-swapped" or scene.task in wrong):
                words = wrong[scene.task] if by.axis == "instruction-swapped" else scene.told
                made.append(replace(scene, told=words, condition="disturbed", disturbed=by))
    return made


def _text(cell: Mapping[str, Any]) -> str:
    """Success and what it is less than undisturbed, with the interval of the paired difference [points]."""
    low, high = (100 * end for end in cell["test"]["interval"])
    return f"{cell['mean']['success_rate']:.2f} ({100 * cell['test']['difference']:+.0f}: {low:+.0f} … {high:+.0f})"


def grid(robustness: Mapping[str, Any]) -> "Table":
    """The grid for a terminal."""
    from rich import box
    from rich.table import Table

    most = max(len(levels) for levels in robustness.values())
    numbers = [f"level {number}" for number in range(1, most + 1)]
    table = Table("disturbed", *numbers, box=box.SIMPLE, title="success (points to the undisturbed scenes)")
    for axis, levels in robustness.items():
        table.add_row(axis, *(_text(cell) for cell in levels.values()))
    return table


def section(robustness: Mapping[str, Any]) -> Markup:
    """The grid for a report's page."""
    if not robustness:
        return Markup("")
    span = max(abs(end) for levels in robustness.values() for one in levels.values() for end in one["test"]["interval"])
    rows = [
        el(
            "tr",
            el("td", el("b", axis)),
            el("td", f"level {level}"),
            el("td", difference_bar(cell["test"]["difference"], cell["test"]["interval"], span or 1.0)),
            el("td", _text(cell), class_="num"),
        )
        for axis, levels in robustness.items()
        for level, cell in levels.items()
    ]
    head = [el("th", name) for name in ("Axis", "Level", f"Difference, ±{100 * span:.0f} points", "Success")]
    said = "The same scenes with one thing changed; the difference to the undisturbed ones with its 95% interval."
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="plain")
    return el("section", el("h2", "Robustness"), el("p", said, class_="muted small"), el("div", table, class_="scroll"))
