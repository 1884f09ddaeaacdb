"""Videos of people: every layout as it lies on disk, sampling by time, damage, and what is never read."""

import json
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data import video
from vla.data.human_clips import Clip, FrameFiles, VideoSpan, decode_clip, frame_files, sampled
from vla.data.human_egocentric import said, seconds
from vla.data.human_video import LAYOUTS, detect_layout, h2o_hand_pose, read_clips
from vla.data.lerobot import EpisodeWriter
from vla.errors import UnderstudyError

SIDE = 16
KINDS = ("captions", "bare", "something", "ego4d", "epic", "h2o", "xirl", "r3m", "liv")


@pytest.fixture(scope="module")
def laid(lay, tmp_path_factory):
    """kind → (folder, layout, captions); for reading only."""
    out = {}
    for kind, (layout, write) in lay.WRITERS.items():
        root = tmp_path_factory.mktemp(kind)
        out[kind] = (root, layout, write(root))
    return out


def decode(clip, fps=10.0, max_frames=64, size=SIDE):
    return decode_clip(clip, size=size, fps=fps, max_frames=max_frames)


def captions(found):
    return {clip.name: clip.caption for clip in found.clips}


def brightness(frames):
    """The mean of each frame, which tells which one it is."""
    return frames.astype(float).mean(axis=(1, 2, 3))


def times(frames, size, step=6.0):
    """Which frames of `ramps` these are, counted from the first one given."""
    return np.round((brightness(frames) - brightness(frames)[0]) / step).astype(int).tolist()


def test_the_kinds_are_all_there(lay):
    assert set(KINDS) == set(lay.WRITERS)
    assert {layout for layout, _ in lay.WRITERS.values()} == set(LAYOUTS) - {"lerobot_v3"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_from_disk_to_frames(laid, kind):
    root, layout, expected = laid[kind]
    assert detect_layout(root) == layout
    found = read_clips(root)
    assert (found.layout, found.split, found.missing) == (layout, "train", ())
    assert captions(found) == expected
    assert found == read_clips(root, layout=layout, split="train")
    for clip in found.clips:
        frames = decode(clip)
        assert frames.shape[1:] == (SIDE, SIDE, 3)
        assert frames.dtype == np.uint8
        assert 2 <= len(frames) <= 40
        assert (np.diff(brightness(frames)) > 0).all()
        # Left is darker than right: the picture is not turned, mirrored or in another colour order.
        assert (np.diff(frames.astype(float).mean(axis=(0, 1)), axis=0) >= -1.5).all()


@pytest.mark.parametrize(
    ("kind", "split", "names"),
    [
        ("something", "validation", {"5"}),
        ("something", "val", {"5"}),
        ("something", "test", {"6"}),
        ("epic", "validation", {"P01_11_1"}),
        ("h2o", "validation", {"subject3/o1/0/cam4"}),
        ("h2o", "test", {"subject4/o2/0/cam2"}),
        ("xirl", "valid", {"gripper/3"}),
    ],
)
def test_other_splits(laid, kind, split, names):
    found = read_clips(laid[kind][0], split=split)
    assert set(captions(found)) == names
    assert len(decode(found.clips[0])) >= 1


def test_a_split_that_is_not_there(laid):
    with pytest.raises(UnderstudyError, match=r"no clips of the split 'test'"):
        read_clips(laid["bare"][0], split="test")
    with pytest.raises(UnderstudyError, match=r"unknown split 'trian'; did you mean 'train'\?"):
        read_clips(laid["bare"][0], split="trian")
    with pytest.raises(UnderstudyError, match="EPIC_100_test_timestamps"):
        read_clips(laid["epic"][0], split="test")


def test_what_cannot_be_told(tmp_path):
    with pytest.raises(UnderstudyError, match=r"none of the layouts.*captions\.csv.*meta/info\.json.*EPIC_100_train"):
        detect_layout(tmp_path)
    with pytest.raises(UnderstudyError, match="unknown layout 'ego4'; did you mean 'ego4d'"):
        read_clips(tmp_path, layout="ego4")
    with pytest.raises(UnderstudyError, match="there is no folder"):
        read_clips(tmp_path / "none")


def test_captions_as_json_lines_with_spans(lay, tmp_path):
    lay.film(tmp_path / "films/long.webm", lay.ramps())
    lay.pictures(tmp_path / "frames", lay.ramps(20), "%d.png")
    rows = [
        {"file": "films/long.webm", "caption": "first", "start_s": 0, "stop_s": 0.5},
        {"file": "films/long.webm", "caption": "then", "start_s": 0.5},
        {"file": "films/long.webm", "caption": "or so", "start_s": 0.5},
        {"file": "frames", "caption": "seen", "start_s": 0.5, "stop_s": 1.0, "fps": 20},
        {"file": "films/long.webm", "caption": "", "split": "test"},
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    clips = read_clips(tmp_path).clips
    names = ["films/long.webm@0-0.5", "films/long.webm@0.5-", "films/long.webm@0.5-#2", "frames@0.5-1"]
    assert [clip.name for clip in clips] == names
    assert [clip.caption for clip in clips] == ["first", "then", "or so", "seen"]
    assert [len(decode(clip, fps=30)) for clip in clips] == [6, 18, 18, 10]
    assert clips[3].source.path(0).name == "10.png"
    assert [clip.name for clip in read_clips(tmp_path, split="test").clips] == ["films/long.webm"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,text\na.mp4,b\n", "has no column caption; it has file, text"),
        ("file,caption,start_s\na.mp4,b,early\n", "start_s of a.mp4 .* is no number: 'early'"),
        ("file,caption\n,b\n", "a row without a file"),
        ("file,caption,start_s\nb,c,1\n", "not their fps"),
        ("file,caption\na.mp4,b\nA.mp4,b\n", "1 of 2 clips .* are not on disk: A.mp4"),
    ],
)
def test_captions_that_cannot_be_read(lay, tmp_path, content, message):
    lay.film(tmp_path / "a.mp4", lay.ramps(4))
    lay.pictures(tmp_path / "b", lay.ramps(2), "%d.png")
    (tmp_path / "captions.csv").write_text(content)
    with pytest.raises(UnderstudyError, match=message):
        read_clips(tmp_path)


@pytest.mark.parametrize("line", ["{", '"a.mp4"', '{"file": "a.mp4"}'])
def test_json_lines_that_cannot_be_read(tmp_path, line):
    (tmp_path / "captions.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(UnderstudyError, match="line 2 of"):
        read_clips(tmp_path)


def test_something_under_its_other_names(lay, tmp_path):
    lay.film(tmp_path / "20bn-something-something-v2/1.webm", lay.ramps(4))
    item = {"id": "1", "template": "Moving [something] up", "placeholders": ["a cup"]}
    lay.dump(tmp_path / "labels/something-something-v2-train.json", [item])
    assert detect_layout(tmp_path) == "something_something_v2"
    assert captions(read_clips(tmp_path)) == {"1": "Moving something up"}


def test_ego4d_with_actions_and_splits(lay, tmp_path):
    lay.write_ego4d(tmp_path)
    expected = lay.add_ego4d_actions(tmp_path)
    found = read_clips(tmp_path)
    assert captions(found) == expected
    assert list(captions(read_clips(tmp_path, split="val"))) == ["bbbb-2/narration_pass_2/00000"]
    action = found.clips[1]
    assert times(decode(action, fps=30), lay.WIDE) == list(range(9))  # frames 6 … 14
    shutil.rmtree(tmp_path / "v2/clips")
    source = read_clips(tmp_path).clips[1].source
    assert source.path.parent.name == "video_540ss"
    assert (source.start_s, source.stop_s) == pytest.approx((1.2, 1.5))


def test_ego4d_narrations_are_windows(laid):
    first, second = (clip.source for clip in read_clips(laid["ego4d"][0]).clips)
    assert (first.start_s, first.stop_s) == (0.5, 4.5)
    assert (second.start_s, second.stop_s) == (0.0, 2.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#C C picks up a cup", "picks up a cup"),
        ("#c c cuts", "cuts"),
        ("#C cuts", "cuts"),
        ("#O A man X runs ", "A man X runs"),
        ("#unsure opens #unsure", "opens"),
        ("#C C holds the #Unsure thing", "holds the thing"),
        ("cuts", "cuts"),
        ("", ""),
    ],
)
def test_the_marks_of_narrators(text, expected):
    assert said(text) == expected


def test_epic_frames_and_seconds(laid):
    frames, film = (clip.source for clip in read_clips(laid["epic"][0]).clips)
    assert (frames.first, frames.last, frames.fps) == (12, 24, 60.0)
    assert frames.path(0).name == "frame_0000000012.jpg"
    assert film == VideoSpan(film.path, 0.5, 1.5)
    assert film.path.name == "P02_103.MP4"
    assert seconds("01:02:03.50") == 3723.5
    with pytest.raises(UnderstudyError, match="a time is like"):
        seconds("soon")


def test_epic_rates_without_the_table(lay, tmp_path):
    lay.write_epic(tmp_path)
    (tmp_path / "epic-kitchens-100-annotations/EPIC_100_video_info.csv").unlink()
    lay.pictures(tmp_path / "P02/rgb_frames/P02_103", lay.ramps(3), "frame_%010d.jpg", first=25)
    assert [clip.source.fps for clip in read_clips(tmp_path).clips] == [59.94, 50.0]


def test_h2o_actions_by_name(lay, tmp_path):
    lay.write_h2o(tmp_path)
    (tmp_path / "action_labels.txt").write_text("0 background\n2 grab book\n5 open milk\n")
    found = read_clips(tmp_path)
    first = {"subject1/h1/0/cam4/000001-000003": "grab book", "subject1/h1/0/cam4/000006-000008": "open milk"}
    assert dict(list(captions(found).items())[:2]) == first
    assert len(found.clips) == 4
    assert h2o_hand_pose(tmp_path, found.clips[1])[:, 0, 0, 0].tolist() == [6, 7, 8]
    (tmp_path / "action_labels.txt").write_text("grab book\nplace book\n")
    assert set(captions(read_clips(tmp_path)).values()) == {"place book"}


def test_h2o_hands(laid):
    root = laid["h2o"][0]
    clip = read_clips(root).clips[0]
    pose = h2o_hand_pose(root, clip)
    assert pose.shape == (9, 2, 21, 3)
    assert pose.dtype == np.float32
    np.testing.assert_allclose(pose[4, 0], (np.arange(63) / 100 + 4).reshape(21, 3), rtol=1e-6)
    np.testing.assert_allclose(pose[3, 1], (-np.arange(63) / 100).reshape(21, 3), rtol=1e-6)
    assert np.isnan(pose[::2, 1]).all()
    assert not np.isnan(pose[1::2]).any()


def test_h2o_hands_that_are_not_there(lay, laid, tmp_path):
    lay.write_h2o(tmp_path)
    clip = read_clips(tmp_path).clips[0]
    folder = tmp_path / "subject1/h1/0/cam4/hand_pose"
    (folder / "000002.txt").unlink()
    assert np.isnan(h2o_hand_pose(tmp_path, clip)[2]).all()
    (folder / "000002.txt").write_text("1 2 3")
    with pytest.raises(UnderstudyError, match="should hold 128 numbers, it holds 3"):
        h2o_hand_pose(tmp_path, clip)
    shutil.rmtree(folder)
    with pytest.raises(UnderstudyError, match="fetch the hand poses"):
        h2o_hand_pose(tmp_path, clip)
    with pytest.raises(UnderstudyError, match="is none of the H2O folder"):
        h2o_hand_pose(laid["h2o"][0], clip)


@pytest.mark.parametrize("storage", ["image", "video"])
def test_lerobot_needs_and_reads_no_action(tmp_path, spec, make_episode, storage):
    with EpisodeWriter(tmp_path, type(spec)(**{**vars(spec), "storage": storage})) as writer:
        for seed in range(2):
            writer.save(make_episode(seed, length=6))
    info = json.loads((tmp_path / "meta/info.json").read_text())
    for name in ("action", "observation.state"):
        del info["features"][name]
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    for path in (tmp_path / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["action", "observation.state"]), path)
    found = read_clips(tmp_path)
    assert found.layout == "lerobot_v3"
    assert captions(found) == {
        f"episode_{n:06d}/{camera}": f"do task {n}" for n in (0, 1) for camera in ("top", "wrist")
    }
    for clip, seed in zip(found.clips, (0, 0, 1, 1)):
        frames = decode(clip)
        camera = clip.name.partition("/")[2]
        original = make_episode(seed, length=6).images[camera]()
        assert len(frames) == 6
        expected = brightness(original if camera == "top" else original[:, :, 4:-4])
        np.testing.assert_allclose(brightness(frames), expected, atol=3)
        assert len(decode(clip, fps=5)) == 3


def test_lerobot_episodes_of_one_video_and_splits(lay, tmp_path):
    """Two episodes behind one another in one file: neither gets a frame of the other."""
    import pyarrow as pa

    key = "observation.images.front"
    lay.film(tmp_path / f"videos/{key}/chunk-000/file-000.mp4", lay.ramps(20), fps=10)
    feature = {"dtype": "video", "shape": [36, 48, 3], "names": ["height", "width", "channels"]}
    info = {"codebase_version": "v3.0", "fps": 10, "features": {key: feature}, "total_episodes": 2}
    info |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    lay.dump(tmp_path / "meta/info.json", info | {"splits": {"train": "0:1", "val": "1:2"}})
    rows = [
        {
            "episode_index": n,
            "length": 10,
            "tasks": ["pour"],
            f"videos/{key}/chunk_index": 0,
            f"videos/{key}/file_index": 0,
            f"videos/{key}/from_timestamp": float(n),
        }
        for n in range(2)
    ]
    (tmp_path / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    (one,), (two,) = (read_clips(tmp_path, split=split).clips for split in ("train", "validation"))
    assert (one.name, two.name) == ("episode_000000/front", "episode_000001/front")
    assert brightness(decode(two))[0] - brightness(decode(one))[0] == pytest.approx(60, abs=2)
    assert times(decode(one, fps=30), lay.WIDE) == times(decode(two, fps=30), lay.WIDE) == list(range(10))
    with pytest.raises(UnderstudyError, match="no split 'test'; it has train, val"):
        read_clips(tmp_path, split="test")
    lay.dump(tmp_path / "meta/info.json", info | {"codebase_version": "v2.1"})
    with pytest.raises(UnderstudyError, match="vla data import"):
        read_clips(tmp_path)


@pytest.mark.parametrize(("suffix", "gop"), [(".mp4", 8), (".webm", 8), (".mkv", 100), (".avi", 6)])
def test_a_span_is_just_its_frames(lay, tmp_path, suffix, gop):
    path = lay.film(tmp_path / f"a{suffix}", lay.ramps(24), gop=gop)
    whole = decode(Clip("a", "", VideoSpan(path)), fps=60)
    assert times(whole, lay.WIDE) == list(range(24))
    first = video.packet_stamps(path)[0]
    part = decode(Clip("a", "", VideoSpan(path, first + 7 / 12 - 0.01, first + 19 / 12 - 0.01)), fps=60)
    assert np.abs(part.astype(int) - whole[7:19]).max() <= 2


def test_sampling_keeps_time_and_invents_nothing(lay, tmp_path):
    path = lay.film(tmp_path / "a.mp4", lay.ramps(30, step=5), fps=30)
    clip = Clip("a", "", VideoSpan(path))
    assert times(decode(clip, fps=10), lay.WIDE, 5) == list(range(0, 30, 3))
    assert times(decode(clip, fps=1000), lay.WIDE, 5) == list(range(30))
    assert times(decode(clip, fps=30), lay.WIDE, 5) == list(range(30))
    assert times(decode(clip, fps=30, max_frames=4), lay.WIDE, 5) == [0, 10, 19, 29]
    assert len(decode(clip, fps=30, max_frames=1)) == len(decode(clip, fps=0.01)) == 1


def test_a_variable_rate_is_sampled_by_its_times(lay, tmp_path):
    """Slow, then ten times as fast: the same time between the frames that are taken."""
    stamps = np.concatenate([np.arange(6) * 0.2, 1.2 + np.arange(24) * 0.02])
    path = lay.film(tmp_path / "a.mp4", lay.ramps(30, step=5), stamps_s=stamps)
    np.testing.assert_allclose(video.packet_stamps(path), stamps, atol=2e-3)
    chosen = times(decode(Clip("a", "", VideoSpan(path)), fps=10), lay.WIDE, 5)
    assert chosen == [0, 1, 2, 3, 4, 5, 6, 11, 16, 21, 26]
    np.testing.assert_allclose(np.diff(stamps[chosen[6:]]), 0.1)


def test_sampling_a_jittered_source_at_its_own_rate():
    stamps = np.arange(200) / 10 + np.random.default_rng(0).uniform(-0.01, 0.01, 200)
    assert len(sampled(stamps, fps=10, max_frames=999)) == 200
    for rate in (0.5, 5, 8, 9.7, 29.97 / 3):
        for length in (1, 2, 7, 1000):
            assert len(sampled(np.arange(length) / rate, fps=10, max_frames=9999)) == length
    for rate in (10.01, 12, 15, 24, 59.94):
        taken = np.arange(1200)[sampled(np.arange(1200) / rate, fps=10, max_frames=9999)]
        assert len(taken) == pytest.approx(1200 / rate * 10, abs=1)
        np.testing.assert_allclose(taken / rate, np.arange(len(taken)) / 10, atol=0.5 / rate + 2e-4)
    assert sampled(np.empty(0), fps=10, max_frames=3).tolist() == []


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (41, 41), (8, 12)])
def test_the_middle_is_kept(tmp_path, lay, size):
    """A square in the middle, whose sides are the short side, whatever way the picture stands."""
    image = np.zeros((*size, 3), np.uint8)
    side = min(size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    image[top : top + side, left : left + side] = (200, 100, 50)
    folder = lay.pictures(tmp_path / "a", [image], "%d.png")
    (frame,) = decode(Clip("a", "", frame_files(folder)))
    assert frame.shape == (SIDE, SIDE, 3)
    assert (frame == (200, 100, 50)).all()


def test_a_recording_that_lies_on_its_side(lay, tmp_path):
    """A phone writes the picture as its sensor lies, and how to turn it."""
    path = lay.film(tmp_path / "a.mp4", lay.ramps(3))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = np.array([0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30], ">u4")  # 90° clockwise
    data[matrix : matrix + 36] = turned.tobytes()
    (tmp_path / "b.mp4").write_bytes(data)
    plain, upright = (decode(Clip(name, "", VideoSpan(tmp_path / name))) for name in ("a.mp4", "b.mp4"))
    np.testing.assert_array_equal(upright, np.rot90(plain, -1, axes=(1, 2)))


def test_frames_are_in_order_of_their_numbers(lay, tmp_path):
    plain = frame_files(lay.pictures(tmp_path / "a", lay.ramps(12), "%d.png"))
    assert (plain.pattern, plain.first, plain.last, plain.names) == ("%01d.png", 0, 11, ())
    assert [plain.path(n).name for n in (2, 10)] == ["2.png", "10.png"]
    padded = frame_files(lay.pictures(tmp_path / "b", lay.ramps(3), "100%%_%05d.jpg", first=7))
    assert [padded.path(n).name for n in range(len(padded))] == ["100%_00007.jpg", "100%_00008.jpg", "100%_00009.jpg"]
    assert padded.names == ()
    (tmp_path / "a/5.png").unlink()
    gap = frame_files(tmp_path / "a")
    assert [gap.path(n).name for n in (4, 5, 10)] == ["4.png", "6.png", "11.png"]
    assert times(decode(Clip("a", "", gap)), lay.WIDE) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert len(frame_files(tmp_path / "none")) == 0


def broken(lay, folder):
    """Name → what is wrong with it."""
    lay.film(folder / "good.mp4", lay.ramps(24))
    whole = lay.film(folder / "cut.webm", lay.ramps(36, step=4)).read_bytes()
    (folder / "cut.webm").write_bytes(whole[: len(whole) // 2])
    whole = lay.film(folder / "late.mp4", lay.ramps(24), faststart=True).read_bytes()
    (folder / "late.mp4").write_bytes(whole[: len(whole) * 7 // 10])
    (folder / "nothing.mp4").touch()
    (folder / "words.avi").write_text("this is no video")
    lay.pictures(folder / "half", lay.ramps(3), "%d.jpg")
    (folder / "half/1.jpg").write_bytes((folder / "half/1.jpg").read_bytes()[:300])
    lay.pictures(folder / "zero", lay.ramps(3), "%d.png")
    (folder / "zero/2.png").write_bytes(b"")
    return {
        "cut.webm": r"cut\.webm is cut off at 1\.\d+ s of 3\.00 s",
        "late.mp4": r"late\.mp4 (is damaged|is cut off|gives only)",
        "nothing.mp4": "damaged and cannot be decoded",
        "words.avi": "damaged and cannot be decoded",
        "half": r"1\.jpg is no JPEG or PNG",
        "zero": r"2\.png is no JPEG or PNG",
    }


def test_damaged_clips_are_named(lay, tmp_path):
    wrong = broken(lay, tmp_path)
    found = {clip.name: clip for clip in read_clips(tmp_path).clips}
    assert set(found) == {"good.mp4", *wrong}
    assert len(decode(found.pop("good.mp4"))) == 20
    for name, message in wrong.items():
        with pytest.raises(UnderstudyError, match=f"clip '{name}' cannot be decoded: .*{message}"):
            decode(found[name])


@pytest.mark.parametrize("suffix", [".webm", ".mp4", ".avi"])
def test_whatever_stands_in_the_file_the_process_goes_on(lay, tmp_path, suffix):
    """Frames come out, or an error that names the clip; nothing else."""
    rng = np.random.default_rng(0)
    whole = lay.film(tmp_path / f"a{suffix}", lay.ramps()).read_bytes()
    clip = Clip("x", "", VideoSpan(tmp_path / f"b{suffix}"))
    refused = 0
    for trial in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) if trial % 2 else 400, rng.integers(1, 30)):
            data[place] = rng.integers(0, 256)
        clip.source.path.write_bytes(data)
        try:
            assert decode(clip).shape[1:] == (SIDE, SIDE, 3)
        except UnderstudyError:
            refused += 1
    assert 0 < refused < 40


def test_an_unknown_codec_and_a_title_in_latin_1(lay, tmp_path):
    path = lay.film(tmp_path / "a.mkv", lay.ramps(4))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/AVX"))
    with pytest.raises(UnderstudyError, match="in a codec that cannot be decoded"):
        decode(Clip("x", "", VideoSpan(path)))
    path.write_bytes(data.replace(b"Lavf", b"La\xe9f"))
    assert len(decode(Clip("x", "", VideoSpan(path)), fps=30)) == 4


def test_a_clip_with_no_frame_in_it(lay, tmp_path):
    path = lay.film(tmp_path / "a.mp4", lay.ramps(4))
    for source in (VideoSpan(path, 5.0, 6.0), FrameFiles(tmp_path, "%d.png", 0, -1)):
        with pytest.raises(UnderstudyError, match=r"clip 'x' cannot be decoded.*holds no frame of it"):
            decode(Clip("x", "", source))
    with pytest.raises(UnderstudyError, match=r"there is no image .*0\.png"):
        decode(Clip("x", "", FrameFiles(tmp_path, "%d.png", 0, 5)))
    with pytest.raises(UnderstudyError, match="above 0"):
        decode(Clip("x", "", VideoSpan(path)), fps=0)


def test_missing_clips_are_counted_and_named(lay, tmp_path):
    lay.write_something(tmp_path)
    (tmp_path / "videos/9.webm").unlink()
    with pytest.raises(UnderstudyError, match=r"1 of 2 clips of .* are not on disk: 9; there is no .*9\.webm; .*allow"):
        read_clips(tmp_path)
    found = read_clips(tmp_path, allow_missing=True)
    assert list(captions(found)) == ["71"]
    assert [(entry.name, "9.webm" in entry.reason) for entry in found.missing] == [("9", True)]
    (tmp_path / "videos/71.webm").unlink()
    with pytest.raises(UnderstudyError, match="2 of 2 clips"):
        read_clips(tmp_path, allow_missing=True)


def test_privileged_data_is_not_listed(lay, tmp_path):
    lay.write_bare_folder(tmp_path)
    lay.film(tmp_path / "privileged/depth.mp4", lay.ramps(4))
    lay.film(tmp_path / "more/Privileged/poses/depth.mp4", lay.ramps(4))
    (tmp_path / "link").symlink_to(tmp_path / "privileged")
    (tmp_path / "depth.mp4").symlink_to(tmp_path / "privileged/depth.mp4")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert set(captions(read_clips(tmp_path))) == {"a.mp4", "more/b.mkv"}
    lay.write_xirl(tmp_path / "x")
    lay.pictures(tmp_path / "x/train/privileged/0", lay.ramps(3), "%d.png")
    lay.pictures(tmp_path / "x/train/gripper/privileged", lay.ramps(3), "%d.png")
    assert set(captions(read_clips(tmp_path / "x"))) == {"gripper/0", "longstick/10"}


@pytest.mark.parametrize("name", ["privileged/depth.mp4", "link.mp4", "sub/../Privileged/depth.mp4"])
def test_captions_that_point_into_privileged_data(lay, tmp_path, name):
    lay.film(tmp_path / "privileged/depth.mp4", lay.ramps(4))
    (tmp_path / "link.mp4").symlink_to(tmp_path / "privileged/depth.mp4")
    lay.table(tmp_path / "captions.csv", "file,caption", [[name, "a cup"]])
    with pytest.raises(UnderstudyError, match=r"named by .*captions\.csv.*for evaluation only"):
        read_clips(tmp_path, allow_missing=True)


def test_privileged_data_by_other_ways(lay, tmp_path):
    path = lay.film(tmp_path / "privileged/depth.mp4", lay.ramps(4))
    folder = lay.pictures(tmp_path / "privileged/depth", lay.ramps(4), "%d.png")
    for source in (VideoSpan(path), frame_files(folder)):
        with pytest.raises(UnderstudyError, match="for evaluation only"):
            decode(Clip("x", "", source))
    for root in (tmp_path / "privileged", tmp_path / "privileged/depth"):
        with pytest.raises(UnderstudyError, match="for evaluation only"):
            read_clips(root)
    lay.table(tmp_path / "manifest.csv", "path,len,txt", [["privileged/depth", 4, "C looks"]])
    with pytest.raises(UnderstudyError, match="for evaluation only"):
        read_clips(tmp_path)


def test_lists_that_cannot_be_read(lay, tmp_path):
    lay.write_something(tmp_path)
    (tmp_path / "labels/train.json").write_text("[{")
    with pytest.raises(UnderstudyError, match=r"train\.json cannot be read"):
        read_clips(tmp_path)
    clip = {"id": "71", "label": "a"}
    lay.dump(tmp_path / "labels/train.json", [clip, clip])
    with pytest.raises(UnderstudyError, match="lists 1 clips more than once: 71"):
        read_clips(tmp_path)
    lay.table(tmp_path / "m/manifest.csv", "path,len,txt", [["a", "many", "C cuts"]])
    with pytest.raises(UnderstudyError, match="neither the columns path, len, txt nor"):
        read_clips(tmp_path / "m")


def test_a_manifest_that_promises_more(lay, tmp_path):
    lay.pictures(tmp_path / "a", lay.ramps(4), "%06d.jpg", first=1)
    lay.table(tmp_path / "manifest.csv", "path,len,txt", [["a", 6, "C cuts"]])
    with pytest.raises(UnderstudyError, match=r"there is no image .*000005\.jpg"):
        decode(read_clips(tmp_path).clips[0])


def test_real_people(samples):
    found = {clip.name: clip for clip in read_clips(samples / "human").clips}
    assert {"hand_pinches.mp4", "kitchen_play_view1.mp4"} <= set(found)
    hand = decode(found["hand_pinches.mp4"], max_frames=16, size=64)
    assert hand.shape == (16, 64, 64, 3)
    assert 20 < hand.mean() < 235
    assert brightness(np.abs(np.diff(hand.astype(float), axis=0))).min() > 0.1  # it moves
    path = samples / "human/kitchen_play_view1.mp4"
    kitchen = decode(found["kitchen_play_view1.mp4"], max_frames=999, size=120)
    np.testing.assert_array_equal(kitchen, video.decode_all(path))  # 8 fps: nothing left out, nothing invented
    part = decode(Clip("part", "", VideoSpan(path, 5.0, 7.0)), size=60)
    expected = [cv2.resize(image, (60, 60), interpolation=cv2.INTER_AREA) for image in kitchen[40:56]]
    np.testing.assert_array_equal(part, np.stack(expected))
