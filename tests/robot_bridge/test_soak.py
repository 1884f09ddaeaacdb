"""`vla bench soak`: a short one, and what it would say of an arm that misbehaves."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from vla import bench
from vla.bench import script

pytestmark = pytest.mark.realtime

soak = script("soak")


def records(jump=0.0, age_s=0.1):
    """Of an arm that stands, but for a setpoint that jumps."""
    joints = np.tile(np.array([0, 0, 0, -2, 0, 2, 0, 0.5]), (20, 1))
    sent = joints.copy()
    sent[10:, 0] += jump
    return {
        "motion": {"joints": joints, "velocity": 0 * joints},
        "ticks": {"sent": sent},
        "steps": np.array([(int(1e9 * age_s),)] * 3, [("age_ns", "i8")]),
    }


@pytest.mark.parametrize(("about", "limits", "stale"), [({}, 0, 0), ({"jump": 0.01}, 1, 0), ({"age_s": 0.9}, 0, 3)])
def test_what_an_arm_must_not_do_is_counted(tmp_path, about, limits, stale):
    seen = soak.Soak(tmp_path, 0.0)
    seen.judge(SimpleNamespace(records=records(**about).get))
    assert (seen.counts["limits exceeded"], seen.counts["stale steps"], seen.counts["steps"]) == (limits, stale, 3)


def test_growth_is_counted_from_when_it_has_settled(tmp_path):
    seen = soak.Soak(tmp_path, 0.0, memory={"server": [1, 5, 6]})
    assert seen.growth(1) == {"server": 1}
    assert seen.growth(9) == {"server": 0}


@pytest.mark.slow
def test_two_arms_are_driven_and_judged(tmp_path):
    file = tmp_path / "soak.json"
    assert bench.main(["soak", "--minutes", "0.25", "--restart", "6", "--json", str(file)]) == 0
    found = {row["name"]: row["value"] for row in json.loads(file.read_text("utf-8"))["rows"]}
    assert found["limits exceeded"] == found["stale steps"] == 0
    assert found["steps"] > 100
    assert found["stops"] == found["rearmings"] >= 2
