"""Meta-World's named sets of tasks: which tasks the field means by MT10, MT50, ML10, "easy" and so on.

MT10, MT50 and ML10 are the package's own (3.1.1). MT1 is any one task, so it needs no name. The difficulties are those
of Seo et al. 2022 ("Masked World Models for Visual Control", appendix) as LeRobot reports them: 28, 11, 6 and 5 of the
50 tasks.
"""

DIFFICULTIES = ("easy", "medium", "hard", "very-hard")

_SETS = {
    "mt10": """
        reach push pick-place door-open drawer-open drawer-close button-press-topdown peg-insert-side
        window-open window-close
    """,
    "ml10-train": """
        reach push pick-place door-open drawer-close button-press-topdown peg-insert-side window-open sweep
        basketball
    """,
    "ml10-test": """
        drawer-open door-close shelf-place sweep-into lever-pull
    """,
    "easy": """
        button-press button-press-topdown button-press-topdown-wall button-press-wall coffee-button dial-turn
        door-close door-lock door-open door-unlock drawer-close drawer-open faucet-close faucet-open
        handle-press handle-press-side handle-pull handle-pull-side lever-pull peg-unplug-side plate-slide
        plate-slide-back plate-slide-back-side plate-slide-side reach reach-wall window-close window-open
    """,
    "medium": """
        basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep
        sweep-into
    """,
    "hard": """
        assembly hand-insert pick-out-of-hole pick-place push push-back
    """,
    "very-hard": """
        disassemble pick-place-wall shelf-place stick-pull stick-push
    """,
}

TASK_SETS = {
    f"metaworld/{name}": tuple(f"metaworld/{task}" for task in tasks.split())
    for name, tasks in {**_SETS, "mt50": " ".join(_SETS[level] for level in DIFFICULTIES)}.items()
}
"""Set, named as a task is, → its tasks."""
