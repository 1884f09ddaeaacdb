"""``vla pretrain`` end to end on a few tiny films: every family, frames that are locked, a resume that is exact."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla.config import CONFIGS, load
from vla.data.corpus import open_corpus
from vla.data.video import encode_mp4
from vla.errors import UnderstudyError
from vla.representation import pretrain
from vla.representation.batches import PretrainBatches, augmented, kinds_of
from vla.representation.families import FAMILIES
from vla.representation.load import Representation
from vla.representation.load import load as load_representation

COLORS = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230)}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Thirty clips of 12 frames: a square of the caption's colour moves to the right."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "clips").mkdir()
    lines, rng = [], np.random.default_rng(0)
    for number in range(30):
        name = list(COLORS)[number % 3]
        frames = np.full((12, 32, 32, 3), rng.integers(60, 180, 3), np.uint8)
        top = int(rng.integers(2, 22))
        for time, frame in enumerate(frames):
            cv2.rectangle(frame, (2 * time, top), (2 * time + 7, top + 7), COLORS[name], -1)
        (folder / f"clips/{number:02d}.mp4").write_bytes(encode_mp4(frames, 10.0))
        lines.append(json.dumps({"file": f"clips/{number:02d}.mp4", "caption": f"move the {name} square"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path_factory.getbasetemp() / "pretrain-cache"))


def settings(films, out, name, *more):
    given = [f"representation={name}", "preset=tiny", f"data={films}", f"out={out}", "trainer.precision=fp32", *more]
    return load(pretrain.PretrainConfig, "pretrain", given, config_dir=CONFIGS / "pretrain")


def corpus_of(films):
    return open_corpus(films, image_size=32)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not FAMILIES[name].labels])
def test_every_family_trains_from_a_folder_of_films(name, films, tmp_path):
    out = pretrain.run(settings(films, tmp_path / "out", name, "trainer.steps=3"))
    made = load_representation(out)
    assert made.name == name
    assert made.encode(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, made.tokens, made.width)
    found = json.loads((out / "validation.json").read_text())
    assert np.isfinite(found["loss"])


def test_an_autoencoder_sees_before_it_has_learned(films, tmp_path):
    """Its linear part is that of the first batches, so that one step, at a rate of nothing, is enough."""
    out = pretrain.run(settings(films, tmp_path / "out", "vae", "trainer.steps=1", "trainer.lr=0"))
    assert json.loads((out / "validation.json").read_text())["pixels"] < 0.01


def test_the_checkpoints_of_all_families_saw_the_same_frames(films, tmp_path):
    stamps = set()
    for name in ("mvp", "r3m"):
        out = pretrain.run(settings(films, tmp_path / name, name, "trainer.steps=1"))
        stamps.add(json.loads((out / "provenance.json").read_text())["index"])
    assert len(stamps) == 1


def test_a_resumed_run_is_the_same_bit_by_bit(films, tmp_path):
    whole = pretrain.run(settings(films, tmp_path / "whole", "voltron_gen", "trainer.steps=4"))
    part = settings(films, tmp_path / "part", "voltron_gen", "trainer.steps=4", "trainer.save_every=2")

    class Stopped(Exception):  # noqa: N818 what a kill is
        pass

    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise Stopped
        return write(*arguments)

    write, pretrain._write_provenance = pretrain._write_provenance, stop
    try:
        with pytest.raises(Stopped):
            pretrain.run(part)
    finally:
        pretrain._write_provenance = write
    part.resume = True
    pretrain.run(part)
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path / "part"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_families_and_seeds_walk_through_the_same_frames(films):
    corpus = corpus_of(films)
    index = pretrain.index_of(corpus)
    kept, held = pretrain.split(index, holdout=100)
    assert len(held) == 3
    assert not set(kept) & set(held)
    batches = []
    for name, seed in (("voltron_dual", 0), ("voltron_gen", 5)):
        made = Representation.create(name, {"encoder": {"image_size": 32, "width": 48, "depth": 1}}, corpus.captions)
        source = PretrainBatches(made, corpus, index=index, clips=kept, batch_size=4, seed=seed)
        batches.append([source(number)["images"] for number in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_captions_go_with_their_clips_and_the_table_is_only_read(films):
    corpus = corpus_of(films)
    index = pretrain.index_of(corpus)
    made = Representation.create("voltron_gen", {"encoder": {"image_size": 32, "width": 48}}, corpus.captions)
    source = PretrainBatches(made, corpus, index=index, clips=np.arange(30), batch_size=6, seed=0)
    before = source._text.clone()
    for number in range(10):
        batch = source(number)
        made.model.losses(batch)
        for image, ids in zip(batch["images"], batch["text"], strict=True):
            words = made.captions.tokenizer.decode(ids.tolist())
            color = np.array(COLORS[words.split()[2]])
            distance = np.abs(image[1].numpy().astype(int) - color).sum(-1)
            assert (distance < 60).sum() > 20  # the square of that colour is in the picture
    assert torch.equal(source._text, before)


def test_cycles_are_between_videos_of_one_caption(films):
    corpus = corpus_of(films)
    made = Representation.create("tcc", {"encoder": {"kind": "resnet", "image_size": 32, "width": 48}}, corpus.captions)
    index = pretrain.index_of(corpus)
    source = PretrainBatches(made, corpus, index=index, clips=np.arange(30), batch_size=6, seed=0)
    seen = set()
    for number in range(12):
        clips = source._one_kind(number)
        captions = {corpus.captions[clip] for clip in clips}
        assert len(captions) == 1
        assert len(set(clips.tolist())) == 6
        seen |= captions
        assert source(number)["images"].shape[0] == 6
    assert len(seen) == 3
    assert [kind.tolist() for kind in kinds_of(["a", "b", "a", "c"])] == [[0, 2]]  # nobody to compare b and c with
    assert [kind.tolist() for kind in kinds_of(["a", "b", "c"])] == [[0, 1, 2]]
    alone = Representation.create(
        "tcc", {"encoder": {"kind": "resnet", "image_size": 32, "width": 48}}, corpus.captions
    )
    frames = [source(number)["times"] for number in range(2)]
    assert not torch.equal(*frames)
    assert torch.isfinite(alone.model(source(0)))


def test_frames_of_one_video_are_cropped_alike():
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32, 3), dtype=np.uint8).repeat(4, axis=1)
    cropped = augmented(images, np.random.default_rng(1))
    assert (cropped == cropped[:, :1]).all()
    assert not (cropped == images).all()
    assert (augmented(images, np.random.default_rng(1)) == cropped).all()


def test_films_without_words_are_refused_by_families_that_read(films, tmp_path):
    silent = tmp_path / "silent"
    silent.mkdir()
    (silent / "a.mp4").write_bytes((films / "clips/00.mp4").read_bytes())
    (silent / "b.mp4").write_bytes((films / "clips/01.mp4").read_bytes())
    with pytest.raises(UnderstudyError, match="learns from captions"):
        pretrain.run(settings(silent, tmp_path / "out", "voltron_cond"))
    pretrain.run(settings(silent, tmp_path / "out", "mvp", "trainer.steps=1"))


def test_a_wrong_setting_is_refused_before_anything_is_decoded(tmp_path):
    config = settings(tmp_path / "nowhere", tmp_path / "out", "mvp", "representation.mask_ration=0.5")
    with pytest.raises(UnderstudyError, match="mask_ratio"):
        pretrain.run(config)


def test_help_has_an_example_and_the_families(capsys):
    assert pretrain.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "vla pretrain representation=voltron_cond" in told
    assert all(name in told for name in FAMILIES)


def test_keypoints_come_from_the_labels_beside_the_films(films, tmp_path):
    (films / "privileged").mkdir(exist_ok=True)
    for number in range(30):
        points = np.full((12, 21, 2), np.nan, np.float32)
        points[:, 0] = np.stack([6 * np.arange(12) + 6.0, np.full(12, 30.0)], 1)
        camera = np.array([[50, 0, 48], [0, 50, 48], [0, 0, 1]], np.float32)  # labels of films of 96 px
        np.savez(films / f"privileged/{number:02d}.npz", keypoints_2d=points, camera_matrix=camera)
    out = pretrain.run(settings(films, tmp_path / "out", "paat", "trainer.steps=2"))
    assert "pose" in json.loads((out / "validation.json").read_text())
    corpus = corpus_of(films)
    config = settings(films, tmp_path / "out", "paat")
    joints = pretrain._joints(config, corpus)
    assert joints.shape == (360, 21, 2)
    assert joints[0, 0].tolist() == pytest.approx([2.0, 10.0])
