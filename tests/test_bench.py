"""Benchmarks: fair turns, ratios that point the right way, a file that can be read back."""

import json
import time
from pathlib import Path

import pytest

from vla import bench
from vla.bench import Row, Times, interleaved, machine, parser, write_bench
from vla.errors import UnderstudyError


def test_candidates_take_turns_and_each_goes_first_equally_often():
    order = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, rounds=6, warmup=2)
    assert order[:6] == list("aabbcc")
    rounds = ["".join(order[i : i + 3]) for i in range(6, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * 2
    assert {name: len(samples) for name, samples in times.samples.items()} == dict.fromkeys("abc", 6)
    assert times.baseline == "a"


def test_a_sample_is_the_time_of_its_own_candidate(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench, "perf_counter", lambda: clock[0])

    def working(seconds):
        def call():
            clock[0] += seconds

        return call

    times = interleaved({"plain": working(0.3), "ours": working(0.1)}, rounds=3)
    assert times.medians == pytest.approx({"plain": 0.3, "ours": 0.1})
    assert times.ratio("ours", "plain") == pytest.approx(3)


@pytest.mark.parametrize(("rounds", "baseline"), [(0, None), (1, "c")])
def test_nothing_to_time_is_refused(rounds, baseline):
    with pytest.raises(ValueError, match="needs a round"):
        interleaved({"a": time.time}, rounds=rounds, baseline=baseline)


def test_a_ratio_is_larger_when_ours_is_faster_and_ignores_what_slows_both():
    quiet = Times({"ours": [1.0] * 5, "peer": [2.0] * 5}, "peer")
    busy = Times({"ours": [1, 3, 1, 9, 1], "peer": [2, 6, 2, 18, 2]}, "peer")
    assert quiet.ratio("ours", "peer") == busy.ratio("ours", "peer") == 2
    assert quiet.ratio("peer", "ours") == 0.5
    assert (quiet.noise, quiet.noisy) == (0, False)
    assert busy.noisy


def test_the_verdict_on_noise_looks_at_the_baseline_only():
    assert not Times({"ours": [1, 9, 1, 9], "peer": [2.0] * 4}, "peer").noisy
    assert not Times({"peer": [2.0]}, "peer").noisy


def test_a_row_of_times_is_in_milliseconds():
    row = Row.of_times("x", [0.001 * value for value in range(101)])
    assert (row.value, row.unit, row.p50, row.p99) == pytest.approx((50, "ms", 50, 99))


def test_what_is_written_can_be_read_back(tmp_path, capsys):
    file = tmp_path / "deep" / "loader.json"
    rows = [Row("ours [fast]", 2.0, "ms", p50=1.5, p99=9.0), Row("peer", 12_345.678, "samples/s")]
    result = write_bench("loader", rows, {"loader_vs_peer": 6.1}, file, noisy=True, notes=["[cpu] only"])
    shown = capsys.readouterr().out
    assert json.loads(file.read_text("utf-8")) == result
    assert result["bench"] == "loader"
    assert result["rows"][0] == {"name": "ours [fast]", "value": 2.0, "unit": "ms", "p50": 1.5, "p99": 9.0}
    assert result["ratios"] == {"loader_vs_peer": 6.1}
    assert result["notes"][0] == "[cpu] only"
    assert "too noisy to tell" in result["notes"][1]
    for part in ("ours [fast]", "samples/s", "12,346", "loader_vs_peer: 6.10×", "note: [cpu] only", "too noisy"):
        assert part in shown


def test_without_a_file_it_only_prints_and_a_quiet_run_says_nothing_of_noise(capsys):
    assert write_bench("loader", [], {}, None)["notes"] == []
    assert "loader" in capsys.readouterr().out


def test_the_machine_is_named():
    told = machine()
    assert set(told) == {"cpu", "cores", "gpu", "python", "torch", "date"}
    assert told["cpu"]
    assert told["cores"] >= 1
    assert json.loads(json.dumps(told)) == told


def test_every_benchmark_takes_the_same_arguments():
    options = parser("loader", "Loads.").parse_args(["--json", "a.json", "--long"])
    assert (options.json, options.long) == (Path("a.json"), True)
    assert parser("loader", "Loads.").parse_args([]).json is None
    assert "vla bench loader" in parser("loader", "Loads.").format_help()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of benchmarks with one script and a neighbour that it imports."""
    (tmp_path / "quick.py").write_text(
        '"""Does nothing, quickly.\n\nMore."""\n'
        "from benchmarks.plain import CODE\n\ndef main(argv):\n    return CODE + len(argv)\n"
    )
    (tmp_path / "plain.py").write_text('"""No script."""\nCODE = 40\n')
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    for module in ("benchmarks", "benchmarks.quick", "benchmarks.plain"):
        monkeypatch.delitem(bench.sys.modules, module, raising=False)
    yield tmp_path
    for module in ("benchmarks", "benchmarks.quick", "benchmarks.plain"):
        bench.sys.modules.pop(module, None)


def test_a_benchmark_is_found_by_name_and_may_import_its_neighbours(folder):
    assert bench.main(["quick", "--long", "x"]) == 42


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_without_a_name_the_scripts_are_listed_unrun(folder, argv, capsys):
    (folder / "broken.py").write_text('"""Would fail."""\nraise RuntimeError\ndef main(argv): ...\n')
    assert bench.main(argv) == 0
    shown = capsys.readouterr().out
    assert "quick                Does nothing, quickly.\n" in shown
    assert "Would fail." in shown
    assert "plain" not in shown


def test_an_unknown_name_names_the_nearest(folder):
    with pytest.raises(UnderstudyError, match="did you mean 'quick'"):
        bench.main(["quik"])


def test_without_a_checkout_the_error_says_so(folder, monkeypatch):
    monkeypatch.setattr(bench, "FOLDER", folder / "gone")
    with pytest.raises(UnderstudyError, match="benchmarks live in the checkout"):
        bench.main(["quick"])
