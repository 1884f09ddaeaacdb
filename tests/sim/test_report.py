"""The page says what the report says, holds what it shows, and lets nobody's text become markup."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sim.films import write_film
from sim.report import read_curves, write_report
from sim.results import EpisodeResult, read_report, summarize
from vla.errors import UnderstudyError
from vla.markup import VOID, el

LIFT, OPEN = "tabletop/lift-red-cube", "tabletop/open-drawer"
HOSTILE = "\"'><script src=https://evil.example/x.js></script><img src=x onerror=alert(1)> & lift"
WORDS = {LIFT: "lift the red cube", OPEN: "open the drawer"}


class Page(HTMLParser):
    """The elements of a page with their attributes; complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not self.open or self.open[-1] != "style" else ""

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def evaluation(words=WORDS, films=True):
    """Two tasks, four conditions: the policy lifts on even seeds and never opens the drawer; two of each are filmed."""
    results = []
    for task, told in words.items():
        for condition in ("policy", "random", "expert", "wrong-instruction"):
            for seed in range(6):
                success = condition == "expert" or (condition == "policy" and task == LIFT and seed % 2 == 0)
                filmed = films and condition in ("policy", "wrong-instruction") and seed < 2
                film = f"films/{task.replace('/', '-')}-{condition}-{seed}.mp4" if filmed else None
                said = f"something else than {told}" if condition == "wrong-instruction" else told
                results.append(EpisodeResult(task, said, condition, seed, seed, success, 40, (5.0, 7.0), film))
    return results


def filmed(folder, results):
    for number, result in enumerate(results):
        if result.film:
            frames = np.random.default_rng(number).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
            write_film(folder / result.film, frames, 10)
    return results


def written(folder, results=None, **options):
    path = write_report(folder, summarize(results or evaluation(films=False)), **options)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def metrics(tmp_path):
    rows = [{"step": step, "loss": 1 / (step + 1), "lr": 1e-3, "samples_per_s": 50.0} for step in range(0, 1000, 2)]
    rows[4]["val_loss"] = 0.5
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_everything_given_is_on_the_page_and_in_the_json(tmp_path, metrics):
    out = tmp_path / "out"
    results = filmed(out, evaluation())
    recorded = np.linspace(0, 1, 20)[:, None] * [1.0, 2.0]
    write_film(tmp_path / "all.mp4", np.zeros((2, 32, 32, 3), np.uint8), 10)
    path = write_report(
        out,
        summarize(results, wall_s={"train": 4000.0}, provenance={"command": "vla demo", "data_hash": "b7f"}),
        curves={"Policy": metrics},
        films={"All of them": tmp_path / "all.mp4"},
        action_plots={"A real arm": {"names": ["x", "grip"], "recorded": recorded, "predicted": recorded[:15] + 0.25}},
        pictures={"The camera": write_film(tmp_path / "camera.webp", np.zeros((1, 8, 8, 3), np.uint8), 1)},
    )
    page = Page(path.read_text(encoding="utf-8"))
    expected = [LIFT, OPEN, *WORDS.values(), "All of them", "A real arm", "grip", "The camera", "Policy", "val_loss"]
    expected += ["vla demo", "b7f", "1 h 06 min", "p50", "p95", "p99", "25.0%", "ceiling", "floor", "wrong instruction"]
    assert [text for text in expected if text not in page.text] == []
    assert all(remark in page.text for remark in read_report(out)["remarks"])
    report = read_report(out)
    assert report["action_plots"]["A real arm"]["mean_abs_error"] == pytest.approx([0.25, 0.25], abs=1e-5)
    assert list(report["curves"]["Policy"]["series"]) == ["loss", "lr", "samples_per_s", "val_loss"]
    assert (out / report["films"]["All of them"]).is_file()


def test_a_success_a_failure_and_a_wrong_instruction_stand_side_by_side_with_what_was_told(tmp_path):
    page = written(tmp_path, filmed(tmp_path, evaluation()))
    # The drawer has no success to show.
    assert len(page.all("video")) == 5
    assert all(video["src"].startswith("data:video/mp4;base64,") and "controls" in video for video in page.all("video"))
    assert page.text.count("told: “lift the red cube”") == 2
    assert page.text.count("told: “something else than lift the red cube”") == 1
    assert page.text.count("told: “open the drawer”") == 1
    assert page.text.count("✗ failure after 40 steps") == 2


def test_films_beyond_the_limit_are_files_beside_the_page(tmp_path):
    results = filmed(tmp_path, evaluation())
    sources = [video["src"] for video in written(tmp_path, results, embed_limit=0).all("video")]
    assert len(sources) == 5
    assert all((tmp_path / source).is_file() for source in sources)
    largest = max((tmp_path / source).stat().st_size for source in sources)
    some = [video["src"] for video in written(tmp_path, results, embed_limit=2 * largest).all("video")]
    assert {source.startswith("data:") for source in some} == {True, False}


def test_the_page_asks_nothing_of_any_other_place(tmp_path, metrics):
    words = {LIFT: HOSTILE, OPEN: "see https://evil.example/film.mp4"}
    page = written(tmp_path, filmed(tmp_path, evaluation(words)), curves=metrics)
    assert not page.all("script") + page.all("link") + page.all("iframe") + page.all("object") + page.all("base")
    sources = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert all(source.startswith("data:") for source in sources)
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")
    assert "http" not in policy[0]


def test_hostile_text_is_text_wherever_it_is_shown(tmp_path):
    words = {HOSTILE: HOSTILE}
    page = written(
        tmp_path,
        filmed(tmp_path, evaluation(words, films=False)),
        action_plots={HOSTILE: {"names": [HOSTILE], "executed": [[1.0], [2.0]]}},
    )
    path = write_report(
        tmp_path,
        summarize(
            evaluation(words, films=False), wall_s={HOSTILE: 1.0}, provenance={HOSTILE: [HOSTILE], "policy": HOSTILE}
        ),
    )
    for shown in (page, Page(path.read_text(encoding="utf-8"))):
        assert not shown.all("script")
        assert not [attributes for _, attributes in shown.elements if "onerror" in attributes]
        assert HOSTILE in shown.text


def test_only_films_inside_the_folder_go_in(tmp_path):
    out = tmp_path / "out"
    write_film(tmp_path / "secret.mp4", np.zeros((1, 8, 8, 3), np.uint8), 1)
    (tmp_path / "out").mkdir()
    (out / "notes.txt").write_text("private", encoding="utf-8")
    films = ["../secret.mp4", "notes.txt", "gone.mp4"]
    results = [EpisodeResult(f"a/{i}", "do", "policy", 1, 1, True, 9, (), film) for i, film in enumerate(films)]
    page = written(out, results)
    assert not page.all("video")
    assert all(f"there is no film at {film}" in page.text for film in films)


def test_a_bare_evaluation_makes_a_page_without_empty_sections(tmp_path):
    results = [EpisodeResult(LIFT, "lift", "policy", seed, seed, False, 9) for seed in range(3)]
    page = written(tmp_path, results)
    assert "0.0%" in page.text
    assert "no random floor measured" in page.text
    for heading in ("Films", "Training", "Actions", "Pictures", "Time"):
        assert not re.search(rf"\b{heading}\b", page.text)


def test_curves_average_rows_skip_what_is_not_finite_and_forgive_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": float(step), "note": "text"}) for step in range(10)]
    lines[3] = '{"step": 3, "loss": NaN}'
    path.write_text("\n".join(lines) + '\n{"step": 10, "lo', encoding="utf-8")
    curves = read_curves(path, points=5)
    assert curves == {"step": [1, 3, 5, 7, 9], "series": {"loss": [0.5, 2.0, 4.5, 6.5, 8.5]}, "rows_per_point": 2}


@pytest.mark.parametrize(("content", "message"), [('{"loss": 1}\n', "'step'"), ('{"st\n{"step": 1}\n', "line 1")])
def test_curves_that_cannot_be_read_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UnderstudyError, match=message):
        read_curves(path)
    with pytest.raises(UnderstudyError, match="no training curves"):
        read_curves(tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_plots": {"arm": {"names": ["x"], "recorded": [[1.0, 2.0]]}}}, "one column per name"),
        ({"action_plots": {"arm": {"names": ["x"]}}}, "none of them"),
        ({"films": {"all": "gone.mp4"}}, "no file gone.mp4"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, options, message):
    with pytest.raises(UnderstudyError, match=message):
        written(tmp_path, **options)


def test_two_films_of_one_name_are_both_kept(tmp_path):
    films = {}
    for number in (1, 2):
        frames = np.full((1, 8, 8, 3), 100 * number, np.uint8)
        films[f"film {number}"] = write_film(tmp_path / str(number) / "all.mp4", frames, 1)
    written(tmp_path / "out", films=films)
    written(tmp_path / "out", films=films)
    kept = read_report(tmp_path / "out")["films"]
    for caption, original in films.items():
        assert (tmp_path / "out" / kept[caption]).read_bytes() == original.read_bytes()
    assert len(list((tmp_path / "out" / "films").iterdir())) == 2


def test_markup_escapes_text_and_attributes_but_not_markup():
    assert el("p", "a<b", el("b", "&"), title='"x"') == '<p title="&quot;x&quot;">a&lt;b<b>&amp;</b></p>'
    assert (
        el("video", controls=True, loop=False, aria_label="a", class_="c")
        == '<video controls aria-label="a" class="c"></video>'
    )
