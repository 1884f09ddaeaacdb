import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from vla.data import cli
from vla.data.inspect import inspect
from vla.data.lerobot import EpisodeWriter, open_dataset
from vla.errors import UnderstudyError

REPO = Path(__file__).resolve().parents[2]


def look(root, **options):
    text = io.StringIO()
    return inspect(root, console=Console(file=text, width=200), **options), text.getvalue()


@pytest.fixture
def recorded(tmp_path, spec, make_episode):
    root = tmp_path / "d"
    episodes = [make_episode(seed, length=40) for seed in range(4)]
    for episode in episodes:
        np.clip(episode.actions, -1, 1, out=episode.actions)
        episode.actions[:, 2] = 0.5
    episodes[1].actions[7, 0] = 50.0
    episodes[2].stamps_ns[20:] += 2_000_000_000
    episodes[3].actions[:, :2] = episodes[3].actions[0, :2]
    episodes[3].proprio[:] = episodes[3].proprio[0]
    with EpisodeWriter(root, spec) as writer:
        for episode in episodes:
            writer.save(episode)
    return root, episodes


def test_numbers_are_those_of_the_data(recorded):
    root, episodes = recorded
    found, _ = look(root)
    assert (found.episodes, found.frames, found.seconds, found.fps) == (4, 160, 16.0, 10.0)
    assert abs(found.measured_fps - 10.0) < 0.5
    assert found.successes == {"succeeded": 2, "failed": 1, "not judged": 1}
    assert found.instructions == {"do task 0": 2, "do task 1": 2}
    assert found.cameras == {"top": (32, 32), "wrist": (32, 40)}
    values = np.concatenate([episode.proprio for episode in episodes]).astype(float)
    for n, dimension in enumerate(found.dimensions[:5]):
        seen = (dimension.min, dimension.q01, dimension.q99, dimension.max)
        np.testing.assert_allclose(seen, np.quantile(values[:, n], [0, 0.01, 0.99, 1]))


def test_what_is_odd_is_pointed_out(recorded):
    found, text = look(recorded[0])
    dx, dy, grip = found.dimensions[5:]
    assert dx.outliers == 1
    assert dx.max == 50.0
    assert dy.outliers == 0
    assert (dx.constant, dy.constant, grip.constant) == (False, False, True)
    assert found.idle == (3,)
    assert [(episode, frame) for episode, frame, _ in found.gaps] == [(2, 19)]
    assert 2.0 < found.gaps[0][2] < 2.3
    for words in ("160 frames", "episode 2 after frame 19", "constant", "2 succeeded", "'do task 1'"):
        assert words in text


def test_the_contact_sheet_shows_the_episodes(recorded, tmp_path):
    found, text = look(recorded[0])
    assert found.contact_sheet == recorded[0] / "contact_sheet.png"
    picture = cv2.imread(str(found.contact_sheet))
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture.std() > 20
    assert str(found.contact_sheet) in text
    hash_before = open_dataset(recorded[0]).hash()
    elsewhere, _ = look(recorded[0], out=tmp_path / "new" / "sheet.png")
    assert elsewhere.contact_sheet.is_file()
    assert open_dataset(recorded[0]).hash() == hash_before


def test_words_and_cameras_that_would_trip_the_printing(tmp_path, spec, make_episode):
    from vla.types import Task

    dark = {camera.name: np.zeros((6, camera.height, camera.width, 3), np.uint8) for camera in spec.cameras}
    images = {name: (lambda frames=frames: frames) for name, frames in dark.items()}
    with EpisodeWriter(tmp_path / "d", spec) as writer:
        writer.save(make_episode(0, task=Task("put [red] in [/box] for $5 and $6"), images=images))
    found, text = look(tmp_path / "d")
    assert "put [red] in [/box] for $5 and $6" in text
    assert found.black == ("top", "wrist")


def test_an_empty_dataset_and_one_without_cameras(tmp_path, spec, make_episode):
    EpisodeWriter(tmp_path / "empty", spec)
    found, _ = look(tmp_path / "empty")
    assert (found.episodes, found.contact_sheet) == (0, None)
    blind = replace(spec, cameras=(), proprio_names=())
    with EpisodeWriter(tmp_path / "blind", blind) as writer:
        writer.save(make_episode(0, images={}, proprio=np.zeros((6, 0), np.float32)))
    found, _ = look(tmp_path / "blind")
    assert found.contact_sheet.is_file()
    assert found.idle == ()


def test_errors(recorded, tmp_path):
    with pytest.raises(UnderstudyError, match="there is no folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(UnderstudyError, match=r"ends in \.png"):
        inspect(recorded[0], tmp_path / "sheet.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnderstudyError, match="cannot be written"):
        inspect(recorded[0], tmp_path / "file" / "sheet.png")


@pytest.mark.parametrize("verb", ["import", "inspect", "repair"])
def test_every_verb_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  vla data {verb} " in capsys.readouterr().out


def test_the_verbs_from_the_command_line(recorded, tmp_path, capsys):
    root, _ = recorded
    assert cli.main(["inspect", str(root), "--out", str(tmp_path / "s.png")]) == 0
    assert "contact sheet: " in capsys.readouterr().out
    assert cli.main(["repair", str(root)]) == 0
    assert "nothing to mend" in capsys.readouterr().out
    (root / "data/chunk-000/file-002.parquet").unlink()
    assert cli.main(["repair", str(root)]) == 0
    told = capsys.readouterr().out
    assert "episode 2 is lost" in told
    assert "3 episodes" in told
    command = ["import", str(root), str(tmp_path / "small"), "--image-size", "8", "--episodes", "0,2"]
    assert cli.main(command) == 0
    assert "2 episodes imported" in capsys.readouterr().out
    assert json.loads((tmp_path / "small/meta/info.json").read_text())["total_episodes"] == 2
    with pytest.raises(UnderstudyError, match="there is no folder"):
        cli.main(["inspect", str(tmp_path / "nowhere")])


def test_episodes_in_words():
    assert cli.parse_episodes("0-3,7, 9-9") == [0, 1, 2, 3, 7, 9]
    for text in ("", "a", "1-", "-3", "1..4"):
        with pytest.raises(UnderstudyError, match="written like 0-9"):
            cli.parse_episodes(text)


def test_the_command_line_is_light_until_a_verb_is_chosen():
    code = "import sys, vla.data.cli; print([m for m in ('numpy', 'torch', 'rich', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
