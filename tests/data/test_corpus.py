"""The decoded-clip store: what decoding gives, made once, whole or gone on with, and the same wherever it lies."""

import copy
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vla.data import corpus as stores
from vla.data.corpus import open_corpus
from vla.data.frame_index import FrameIndex
from vla.data.human_video import decode_clip, read_clips
from vla.errors import UnderstudyError

SIZE = 24
KINDS = ("captions", "bare", "something", "ego4d", "epic", "h2o", "xirl", "r3m", "liv")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/corpus"


@pytest.fixture
def films(lay, tmp_path):
    """Six short films with captions."""
    root = tmp_path / "films"
    for number in range(6):
        lay.film(root / f"{number}.mp4", lay.ramps(4 + number, number))
    lay.table(root / "captions.csv", "file,caption", [[f"{number}.mp4", f"do {number}"] for number in range(6)])
    return root


@pytest.fixture
def decoded(monkeypatch):
    """The names of the clips that are decoded from here on."""
    names = []

    def told(clip, **settings):
        names.append(clip.name)
        return decode_clip(clip, **settings)

    monkeypatch.setattr(stores, "decode_clip", told)
    return names


def same(one, two):
    assert (one.names, one.captions, one.hash) == (two.names, two.captions, two.hash)
    np.testing.assert_array_equal(one.starts, two.starts)
    np.testing.assert_array_equal(one.frames(np.arange(one.num_frames)), two.frames(np.arange(two.num_frames)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_from_disk_to_the_store(lay, tmp_path, kind):
    expected = lay.WRITERS[kind][1](tmp_path / "data")
    corpus = open_corpus(tmp_path / "data", image_size=SIZE, fps=12, max_frames=20)
    assert dict(zip(corpus.names, corpus.captions)) == expected
    assert (corpus.skipped, corpus.image_size) == ((), SIZE)
    clips = {clip.name: clip for clip in read_clips(tmp_path / "data").clips}
    for number, name in enumerate(corpus.names):
        frames = decode_clip(clips[name], size=SIZE, fps=12, max_frames=20)
        assert corpus.lengths[number] == len(frames)
        np.testing.assert_allclose(corpus.clip(number).astype(int), frames, atol=6)
    assert corpus.starts.tolist() == [0, corpus.lengths[0]]
    assert corpus.starts.dtype == corpus.lengths.dtype == np.int64


def test_rows_of_any_shape(films):
    corpus = open_corpus(films, image_size=SIZE, fps=12)
    everything = np.concatenate([corpus.clip(number) for number in range(6)])
    assert everything.shape == (corpus.num_frames, SIZE, SIZE, 3)
    rng = np.random.default_rng(0)
    for shape in ((), (3,), (0,), (4, 5), (7, 5, 3)):  # the last is more than one thread's work
        rows = rng.integers(0, corpus.num_frames, shape)
        np.testing.assert_array_equal(corpus.frames(rows), everything[rows])
    for wrong in (-1, corpus.num_frames):
        with pytest.raises(IndexError, match=f"got {wrong} to {wrong}"):
            corpus.frames(np.array([wrong]))
    same(copy.copy(corpus), corpus)


def test_colours_and_edges_survive(lay, tmp_path):
    """Red stays red, and a picture comes back as near as quality 95 gives it."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, : SIZE // 2] = (220, 30, 40)
    image[:, SIZE // 2 :] = (20, 60, 200)
    lay.pictures(tmp_path / "data/a", [image, image], "%d.png")
    found = open_corpus(tmp_path / "data", image_size=SIZE).clip(0)
    assert np.abs(found.astype(int) - image).mean() < 4
    assert np.abs(found[:, :, :8].astype(int) - image[:, :8]).max() < 4


def test_with_the_index(films):
    """As a training loop uses the two."""
    corpus = open_corpus(films, image_size=SIZE, fps=12)
    index = FrameIndex(corpus.names, corpus.lengths, seed=0)
    clips, epochs = index.order(3, 8)
    rows = corpus.starts[clips][:, None] + index.quintets(clips, epochs)
    images = corpus.frames(rows)
    assert images.shape == (8, 5, SIZE, SIZE, 3)
    assert (np.diff(images.astype(float).mean(axis=(2, 3, 4)), axis=1) >= 0).all()  # ramps get brighter with time
    np.testing.assert_array_equal(images[2, 4], corpus.clip(clips[2])[index.quintets(clips, epochs)[2, 4]])


def test_the_second_call_decodes_nothing(films, decoded):
    first = open_corpus(films, image_size=SIZE)
    assert sorted(decoded) == sorted(first.names)
    same(open_corpus(films, image_size=SIZE), first)
    same(open_corpus([films], image_size=SIZE), first)
    assert len(decoded) == 6


def test_another_setting_or_another_file_is_another_store(films, decoded):
    first = open_corpus(films, image_size=SIZE)
    hashes = {first.hash}
    for settings in ({"image_size": 16}, {"fps": 5}, {"max_frames": 3}):
        hashes.add(open_corpus(films, **{"image_size": SIZE, **settings}).hash)
    assert (len(hashes), len(decoded)) == (4, 24)
    os.utime(films / "3.mp4", ns=(1, 1))
    assert open_corpus(films, image_size=SIZE).hash == first.hash  # looked at again, and it is the same
    assert len(decoded) == 30
    (films / "captions.csv").write_text((films / "captions.csv").read_text().replace("do 3", "do three"))
    assert open_corpus(films, image_size=SIZE).hash != first.hash


def test_a_corpus_that_was_moved_is_the_same(films, tmp_path, decoded):
    first = open_corpus(films, image_size=SIZE)
    films.rename(tmp_path / "elsewhere")
    same(open_corpus(tmp_path / "elsewhere", image_size=SIZE), first)
    assert len(decoded) == 6


def test_several_folders(films, tmp_path, decoded):
    shutil.copytree(films, tmp_path / "more" / "films")
    shutil.copytree(films, tmp_path / "others")
    corpus = open_corpus([films, tmp_path / "others"], image_size=SIZE)
    assert corpus.names[::6] == ("films/0.mp4", "others/0.mp4")
    assert len(set(corpus.names)) == 12
    corpus = open_corpus([films, tmp_path / "more" / "films"], image_size=SIZE)
    assert corpus.names[6] == "more/films/0.mp4"
    for roots, message in (((films, films), "the same folder is given twice"), ((), "at least one folder")):
        with pytest.raises(UnderstudyError, match=message):
            open_corpus(roots, image_size=SIZE)
    with pytest.raises(UnderstudyError, match="above 0"):
        open_corpus(films, image_size=0)


def test_damaged_clips_are_left_out_and_named(films, caplog):
    (films / "2.mp4").write_bytes((films / "2.mp4").read_bytes()[:500])
    (films / "4.mp4").write_bytes(b"")
    for _ in range(2):
        caplog.clear()
        corpus = open_corpus(films, image_size=SIZE)
        assert corpus.names == ("0.mp4", "1.mp4", "3.mp4", "5.mp4")
        assert corpus.captions == ("do 0", "do 1", "do 3", "do 5")
        assert [entry.name for entry in corpus.skipped] == ["2.mp4", "4.mp4"]
        assert "2.mp4 is damaged" in corpus.skipped[0].reason
        assert "2 of 6 clips are left out: 2.mp4, 4.mp4; the first: clip '2.mp4' cannot be decoded" in caplog.text


def test_missing_clips_are_left_out_only_if_allowed(films, caplog):
    (films / "1.mp4").unlink()
    with pytest.raises(UnderstudyError, match="1 of 6 clips"):
        open_corpus(films, image_size=SIZE)
    corpus = open_corpus(films, image_size=SIZE, allow_missing=True)
    assert "1.mp4" not in corpus.names
    assert [entry.name for entry in corpus.skipped] == ["1.mp4"]
    assert "1 of 6 clips are left out: 1.mp4" in caplog.text


def test_not_one_clip(tmp_path, cache):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.mp4").touch()
    for _ in range(2):
        with pytest.raises(UnderstudyError, match=r"not one of 1 clips can be decoded; the first: clip 'a\.mp4'"):
            open_corpus(tmp_path / "data", image_size=SIZE)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def interrupted(films, monkeypatch, at):
    """Decode, and be stopped when clip ``at`` is reached."""

    def stop(clip, **settings):
        if clip.name == at:
            raise KeyboardInterrupt
        return decode_clip(clip, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "decode_clip", stop)
        with pytest.raises(KeyboardInterrupt):
            open_corpus(films, image_size=SIZE)


@pytest.mark.parametrize("damage", ["none", "journal", "frames", "both gone", "more"])
def test_after_a_kill_it_goes_on(films, monkeypatch, cache, tmp_path, decoded, damage):
    interrupted(films, monkeypatch, "3.mp4")
    (part,) = cache.glob("*.part")
    journal, frames = part / "journal.jsonl", part / "frames.jpgs"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    left = 3
    if damage == "journal":  # killed within a line
        journal.write_text("".join(lines[:2]) + lines[2][:9])
        left = 4
    elif damage == "frames":  # a power cut: the journal reached the disk, the frames did not
        os.truncate(frames, frames.stat().st_size - 10)
        left = 4
    elif damage == "both gone":
        frames.unlink()
        left = 6
    elif damage == "more":  # killed between the two
        frames.write_bytes(frames.read_bytes() + b"frames of the next clip")
    decoded.clear()
    resumed = open_corpus(films, image_size=SIZE)
    assert sorted(decoded) == [f"{number}.mp4" for number in range(6 - left, 6)]
    assert not list(cache.glob("*.part"))
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "fresh"))
    same(open_corpus(films, image_size=SIZE), resumed)


def test_two_at_the_same_time_decode_once(films, decoded):
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: open_corpus(films, image_size=SIZE), range(2))
    same(one, two)
    assert len(decoded) == 6


def test_a_full_disk(films, monkeypatch, decoded):
    """What was written stays, and the next call goes on."""
    write, count = stores._write, []

    def full(*arguments):
        count.append(1)
        if len(count) == 4:
            raise OSError("No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_write", full)
        with pytest.raises(UnderstudyError, match=r"cannot be written \(No space left on device\); make room"):
            open_corpus(films, image_size=SIZE)
    decoded.clear()
    assert len(open_corpus(films, image_size=SIZE).names) == 6
    assert sorted(decoded) == ["3.mp4", "4.mp4", "5.mp4"]


def test_a_damaged_store_says_so(films, cache):
    corpus = open_corpus(films, image_size=SIZE)
    (corpus.folder / "frames.jpgs").write_bytes(bytes((corpus.folder / "frames.jpgs").stat().st_size))
    with pytest.raises(UnderstudyError, match="delete it, and it is made again"):
        open_corpus(films, image_size=SIZE).clip(0)


def test_in_a_process_of_its_own(films, monkeypatch):
    """A fork has none of its parent's threads, and must not wait for them."""
    corpus = open_corpus(films, image_size=SIZE)
    rows = np.tile(np.arange(corpus.num_frames), 3)
    expected = corpus.frames(rows)
    threads = corpus._threads()
    assert corpus._threads() is threads
    monkeypatch.setattr(os, "getpid", lambda: 1)
    np.testing.assert_array_equal(corpus.frames(rows), expected)
    assert corpus._threads() is not threads


def test_real_people(samples):
    corpus = open_corpus(samples / "human", image_size=64, max_frames=12)
    assert {"hand_pinches.mp4", "kitchen_play_view1.mp4", "kitchen_play_view2.mp4"} <= set(corpus.names)
    assert (corpus.lengths == 12).all()
    clip = next(clip for clip in read_clips(samples / "human").clips if clip.name == "kitchen_play_view1.mp4")
    frames = decode_clip(clip, size=64, fps=10, max_frames=12)
    stored = corpus.clip(corpus.names.index(clip.name))
    assert np.abs(stored.astype(int) - frames).mean() < 3
