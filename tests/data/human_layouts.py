"""The layouts of published human videos, two tiny clips each, made from ramps whose brightness tells clip and time.

Every ``write_…`` fills a folder and tells which clips of the split ``train`` should be found there: name → caption.
"""

import csv
import json
from fractions import Fraction

import av
import cv2
import numpy as np

TALL, WIDE = (48, 36), (36, 48)
LENGTH, FPS = 24, 12
CODECS = {
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b:v": "0"}),
    ".mp4": ("libx264", {"preset": "ultrafast", "crf": "12"}),
    ".mkv": ("libx264", {"preset": "ultrafast", "crf": "12"}),
    ".avi": ("mpeg4", {"qscale": "2"}),
}


def ramps(length=LENGTH, number=0, size=WIDE, step=6):
    """Frames [T, H, W, 3]: brighter from frame to frame by ``step``, from clip to clip, and from left to right."""
    columns = np.arange(size[1])[None, :, None] // 2 + np.zeros((size[0], 1, 3), int)
    return np.stack([columns + 20 + 15 * number + step * t for t in range(length)]).astype(np.uint8)


def film(path, frames, *, fps=FPS, stamps_s=None, faststart=False, gop=8):
    """A video of these frames, at their ``stamps_s`` where the rate is not constant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec, options = CODECS[path.suffix.lower()]
    tick = Fraction(1, 1000) if stamps_s is not None else Fraction(1, fps)
    flags = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", options=flags) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.time_base = stream.codec_context.time_base = tick
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if stamps_s is None else round(stamps_s[number] * 1000)
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pictures(folder, frames, pattern, first=0):
    """A folder of image files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(frames, start=first):
        assert cv2.imwrite(str(folder / (pattern % number)), image[:, :, ::-1])
    return folder


def table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_folder(root):
    film(root / "a.mp4", ramps(number=0))
    pictures(root / "more/b", ramps(number=1, size=TALL), "%d.jpg")
    table(root / "captions.csv", "file,caption", [["a.mp4", " open  a door "], ["more/b", ""]])
    return {"a.mp4": "open a door", "more/b": ""}


def write_bare_folder(root):
    film(root / "a.mp4", ramps(number=0))
    film(root / "more/b.mkv", ramps(number=1, size=TALL))
    return {"a.mp4": "", "more/b.mkv": ""}


def write_something(root):
    labels = {"train": (71, 9), "validation": (5,), "test": (6,)}
    for number, name in enumerate(n for names in labels.values() for n in names):
        film(root / f"videos/{name}.webm", ramps(number=number, size=TALL if name == 9 else WIDE))
    for split, names in labels.items():
        items = [
            {
                "id": str(name),
                "label": f"pushing cup {name}",
                "template": "Pushing [something]",
                "placeholders": [f"cup {name}"],
            }
            for name in names
        ]
        dump(root / f"labels/{split}.json", [{"id": item["id"]} for item in items] if split == "test" else items)
    dump(root / "labels/labels.json", {"Pushing something": "0"})
    return {"71": "pushing cup 71", "9": "pushing cup 9"}


def write_ego4d(root):
    for number, uid in enumerate(("aaaa-1", "bbbb-2")):
        film(root / f"v2/video_540ss/{uid}.mp4", ramps(36, number, size=(WIDE, TALL)[number], step=4))
    narrations = [("#C C picks up a cup ", 2.5), ("#O a man X opens the #unsure", 0.5)]
    listed = [
        {"narration_text": text, "timestamp_sec": at, "timestamp_frame": round(at * 30), "annotation_uid": "u"}
        for text, at in narrations
    ]
    content = {
        "aaaa-1": {"status": "complete", "narration_pass_1": {"narrations": listed[:1]}},
        "bbbb-2": {"narration_pass_1": {"narrations": []}, "narration_pass_2": {"narrations": listed[1:]}},
        "cccc-3": {"status": "redacted"},
    }
    dump(root / "v2/annotations/narration.json", content)
    return {
        "aaaa-1/narration_pass_1/00000": "picks up a cup",
        "bbbb-2/narration_pass_2/00000": "a man X opens the",
    }


def add_ego4d_actions(root):
    """fho_main.json with one action that has its frames, and one that has none; the split of the second video."""
    film(root / "v2/clips/clip-1.mp4", ramps(30, 1), fps=30)
    frames = {"pre_frame": 6, "pnr_frame": 9, "post_frame": 14}
    actions = [
        {"narration_text": "#C C turns a tap", "clip_critical_frames": frames, "frames": []},
        {"narration_text": "#C C walks", "clip_critical_frames": None, "frames": []},
    ]
    interval = {"clip_uid": "clip-1", "start_sec": 1.0, "narrated_actions": actions}
    video = {"video_uid": "aaaa-1", "video_metadata": {"fps": 30.0}, "annotated_intervals": [interval]}
    dump(root / "v2/annotations/fho_main.json", {"version": "2.0", "videos": [video]})
    dump(root / "ego4d.json", {"videos": [{"video_uid": "bbbb-2", "split_em": None, "split_fho": "val"}]})
    return {"aaaa-1/narration_pass_1/00000": "picks up a cup", "aaaa-1/fho/000/0000": "turns a tap"}


EPIC_COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)


def write_epic(root):
    pictures(root / "P01/rgb_frames/P01_11", ramps(30, 0), "frame_%010d.jpg", first=1)
    film(root / "P02/videos/P02_103.MP4", ramps(100, 1, size=TALL, step=2), fps=50)

    def row(name, video, span, narration):
        start, stop, first, last = span
        head = [name, video[:3], video, start, f"00:00:{start}", f"00:00:{stop}", first, last, narration]
        return [*head, "open", 3, "door", 8, "['door']", "[8]"]

    rows = [
        row("P01_11_0", "P01_11", ("00.20", "00.40", 12, 24), "open door"),
        row("P02_103_7", "P02_103", ("00.50", "01.50", 25, 75), "close door"),
    ]
    table(root / "epic-kitchens-100-annotations/EPIC_100_train.csv", EPIC_COLUMNS, rows)
    later = row("P01_11_1", "P01_11", ("00.40", "00.48", 24, 29), "take cup")
    table(root / "epic-kitchens-100-annotations/EPIC_100_validation.csv", EPIC_COLUMNS, [later])
    info = [["P01_11", 0.5, 60.0, "456x256"], ["P02_103", 2.0, 50.0, "456x256"]]
    table(root / "epic-kitchens-100-annotations/EPIC_100_video_info.csv", "video_id,duration,fps,resolution", info)
    return {"P01_11_0": "open door", "P02_103_7": "close door"}


def write_h2o(root):
    for number, (take, view) in enumerate({"subject1/h1/0": "rgb256", "subject3/k1/2": "rgb"}.items()):
        pictures(root / take / "cam4" / view, ramps(9, number, size=(WIDE, TALL)[number]), "%06d.png")
        for camera in ("cam0", "cam1"):
            pictures(root / take / camera / "rgb", ramps(9, number), "%06d.png")
        write_h2o_frames(root / take / "cam4")
    pictures(root / "subject3/o1/0/cam4/rgb256", ramps(4), "%06d.png")
    pictures(root / "subject4/o2/0/cam2/rgb", ramps(4), "%06d.png")
    return {"subject1/h1/0/cam4": "", "subject3/k1/2/cam4": ""}


def write_h2o_frames(camera):
    """Per frame: the left hand everywhere, the right one in odd frames; action 2 in frames 1…3, action 5 in 6…8."""
    for folder in ("hand_pose", "action_label"):
        (camera / folder).mkdir(parents=True)
    for number in range(9):
        left = [1, *(np.arange(63) / 100 + number)]
        right = [number % 2, *(-np.arange(63) / 100 if number % 2 else np.zeros(63))]
        (camera / f"hand_pose/{number:06d}.txt").write_text(" ".join(map(str, [*left, *right])))
        action = 2 * (1 <= number <= 3) + 5 * (number >= 6)
        (camera / f"action_label/{number:06d}.txt").write_text(f"{action}\n")


def write_xirl(root):
    pictures(root / "train/gripper/0", ramps(12, 0), "%d.png")
    pictures(root / "train/longstick/10", ramps(12, 1, size=TALL), "%d.png")
    pictures(root / "valid/gripper/3", ramps(5, 2), "%d.png")
    return {"gripper/0": "", "longstick/10": ""}


def write_r3m(root):
    pictures(root / "clip_0", ramps(12, 0), "%06d.jpg", first=1)
    pictures(root / "clip_1", ramps(12, 1, size=TALL), "%06d.jpg", first=1)
    rows = [["clip_0", 12, "C opens a door"], ["/where/it/was/made/clip_1", 10, "C cuts"]]
    table(root / "manifest.csv", "path,len,txt", rows)
    return {"clip_0": "opens a door", "clip_1": "cuts"}


def write_liv(root):
    pictures(root / "video0", ramps(12, 0), "%d.jpg")
    pictures(root / "video1", ramps(12, 1, size=TALL), "frame_%010d.jpg", first=1)
    rows = [[0, "video0", 12, "C is a letter"], [1, "video1", 12, "cut"]]
    table(root / "manifest.csv", "index,directory,num_frames,text", rows)
    return {"video0": "C is a letter", "video1": "cut"}


WRITERS = {
    "captions": ("folder", write_folder),
    "bare": ("folder", write_bare_folder),
    "something": ("something_something_v2", write_something),
    "ego4d": ("ego4d", write_ego4d),
    "epic": ("epic_kitchens_100", write_epic),
    "h2o": ("h2o", write_h2o),
    "xirl": ("frame_folders", write_xirl),
    "r3m": ("frame_folders", write_r3m),
    "liv": ("frame_folders", write_liv),
}
