"""``vla bench scoreboard``: the page says what the cells say."""

import argparse

import pytest

from vla.bench import script


@pytest.fixture(scope="module")
def bench():
    return script("scoreboard")


def cell(subject, problem, value, mark="", *, column=None):
    headline = script("scoreboard").PROBLEMS[problem].headline
    metric = {"value": value, "low": value - 0.1, "high": value + 0.1, "chance": None}
    return {
        "subject": subject,
        "problem": problem,
        "column": column or problem,
        "mark": mark,
        "metrics": {headline: metric},
    }


CELLS = [
    cell("raw pixels", "control", 0.2),
    cell("siglip", "control", 0.5, "▲"),
    cell("siglip", "retrieval", 0.4, "="),
    cell("siglip-seed1", "control", 0.6),
    cell("siglip-seed1", "retrieval", 0.5),
    cell("siglip", "alignment", 0.3),
    cell("siglip-seed1", "alignment", 0.3),
]


def test_a_row_for_each_subject_and_a_dash_where_nobody_asked(bench):
    table = bench.told(CELLS[:3], ["control", "retrieval"]).splitlines()
    assert table == [
        "|  | control | retrieval |",
        "| --- | --- | --- |",
        "| raw pixels | 0.20 (0.10 – 0.30) | – |",
        "| siglip | 0.50 (0.40 – 0.60) ▲ | 0.40 (0.30 – 0.50) = |",
    ]


def test_seeds_have_a_mean_and_students_interval(bench):
    row = bench.over_seeds(CELLS, ["siglip"], 2).splitlines()[2]
    assert "0.50, 0.60: 0.55 (-0.09 – 1.19)" in row  # 12.706 standard errors of two values


def test_the_page_has_the_command_and_every_table(bench):
    first = {
        "cells": CELLS[:3],
        "scale": "study",
        "legend": "▲ …",
        "training": {"siglip": {"steps": 1036, "batch_size": 64, "seed": 0, "loss": 6.2333}},
    }
    given = argparse.Namespace(clips=2100, minutes=6.0, quick=False, distractor=False, best=["siglip"], seeds=2)
    told = bench.page(first, {"cells": CELLS}, given)
    assert "vla bench scoreboard --best siglip --seeds 2" in told
    assert "| siglip | 1036 | 64 | 6.233 |" in told
    assert "## 2 seeds" in told
