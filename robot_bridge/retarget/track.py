"""``vla track``: find the hands in a video, and show them.

vla track me.mp4 --out outputs/track           # track.npz, overlay.mp4
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robot_bridge.retarget import tracker
from robot_bridge.retarget.hands import SIDES, HandTrack
from robot_bridge.retarget.landmarks import read_landmarks
from robot_bridge.retarget.overlay import write_overlay
from robot_bridge.retarget.tracker import TrackerConfig, track_video

EXAMPLES = """\
examples:
  vla track me.mp4 --out outputs/track
  vla track front.mp4 side.mp4 --full          # both into outputs/track/front and outputs/track/side

  vla track hand_tracking_results.csv --trajectory closed_loop_trajectory.csv     # of Aria's glasses
  vla track hamer.npz                          # of HaMeR, WiLoR or MANO: see robot_bridge/retarget/landmarks.py

It writes track.npz (21 keypoints of each hand in each frame) and overlay.mp4. MediaPipe does the finding, in an
environment of its own: run `make hands` once.
"""
TRACK, OVERLAY = "track.npz", "overlay.mp4"
LANDMARKS = (".csv", ".npz", ".pkl", ".pickle", ".pt", ".pth")
"""What is no video; pickles are among them to be refused."""


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "vla track",
        description="Find the hands in a video.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("videos", type=Path, nargs="+", metavar="VIDEO", help="any mp4, mov, webm …; or a file of another tracker")
    add("--trajectory", type=Path, metavar="CSV", help="of Aria's glasses, to have the hands in its world's frame")
    add("--out", type=Path, default=Path("outputs/track"), help="folder (%(default)s)")
    add("--full", action="store_true", help="the larger model: half as fast, a little more exact")
    add("--confidence", type=float, default=0.5, help="below which a hand is none; 0.3 finds more (%(default)s)")
    add("--no-overlay", action="store_true", help="write no film of the hands over the video")
    given = parser.parse_args(argv)
    config = TrackerConfig(full=given.full, confidence=given.confidence)
    for video in given.videos:
        folder = given.out / video.stem if len(given.videos) > 1 else given.out
        if video.suffix in LANDMARKS:
            track = read_landmarks(video, given.trajectory)
            track.save(folder / TRACK)
        else:
            track = tracked(video, folder, config)
        if video.suffix not in LANDMARKS and not given.no_overlay:
            write_overlay(video, track, folder / OVERLAY)
        sys.stdout.write(f"{video}: {said(track)}; {folder}\n")
    return 0


def tracked(video: Path, folder: Path, config: TrackerConfig | None = None) -> HandTrack:
    """The hands of ``video``, under a progress bar; kept in ``folder``."""
    with progress_bar(f"track {video.name}") as bar:
        track = track_video(video, config, progress=bar)
    track.save(folder / TRACK)
    return track


def said(track: HandTrack) -> str:
    """How much of each hand was seen, in words."""
    frames = len(track.stamps)
    parts = []
    for side in SIDES:
        known = track.seen(side) | np.isfinite(track.points[:, SIDES.index(side)]).all((1, 2))
        seen, gaps = int(known.sum()), track.gaps(side)
        if seen:
            longest = max((track.stamps[b] - track.stamps[a - 1] for a, b in gaps), default=0.0)
            missing = f", {len(gaps)} gaps, the longest {longest:.1f} s" if gaps else ""
            parts.append(f"{side} hand in {seen} of {frames} frames ({100 * seen / frames:.0f} %){missing}")
    return "; ".join(parts) or f"no hand in any of {frames} frames"


@contextmanager
def progress_bar(what: str) -> Iterator[tracker.Progress]:
    """A bar with the time left; what is yielded is told how many of how many are done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
