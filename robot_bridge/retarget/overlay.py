"""The hands drawn over the video that they were found in."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from robot_bridge.retarget.hands import BONES, SIDES, Floats, HandTrack
from vla.data.video import every_frame, write_mp4

COLOURS = {"left": (80, 170, 255), "right": (255, 150, 40)}
TALLEST = 480
"""Pixels of a film's height; a taller video is shrunk."""


def write_overlay(video: Path, track: HandTrack, out: Path) -> None:
    """The film ``out`` (mp4) of ``video`` with the hands of ``track`` over it; what is not seen is said."""
    rate = (len(track.stamps) - 1) / max(float(np.ptp(track.stamps)), 1e-3)
    write_mp4(out, overlaid(video, track), fps=max(rate, 1.0))


def overlaid(video: Path, track: HandTrack) -> Iterator[tuple[float, np.ndarray]]:
    """When each frame is shown, and its picture with the hands."""
    for (stamp, picture), frame in zip(every_frame(video), range(len(track.stamps))):
        yield stamp, drawn(picture, track, frame)


def drawn(picture: np.ndarray, track: HandTrack, frame: int) -> np.ndarray:
    """One picture [H, W, 3] with the hands of a frame, at most `TALLEST` high."""
    factor = min(1.0, TALLEST / picture.shape[0])
    size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if factor < 1 else picture.copy()
    words = []
    for slot, side in enumerate(SIDES):
        if track.score[frame, slot] > 0:
            draw_hand(small, (track.pixels[frame, slot] + 0.5) * factor, COLOURS[side])
            words.append(f"{side} {track.score[frame, slot]:.2f}")
    write(small, "  ".join(words) or "no hand")
    return small


def draw_hand(picture: np.ndarray, points: Floats, colour: tuple[int, int, int]) -> None:
    """The bones and joints of a hand at ``points`` [21, 2] px."""
    thick = max(1, round(min(picture.shape[:2]) / 240))
    places = [tuple(round(float(value)) for value in point) for point in np.clip(points, -1e4, 1e4)]
    for a, b in BONES:
        cv2.line(picture, places[a], places[b], colour, thick, cv2.LINE_AA)
    for place in places:
        cv2.circle(picture, place, thick + 1, (255, 255, 255), -1, cv2.LINE_AA)


def write(picture: np.ndarray, words: str, line: int = 0) -> None:
    """Words at the top left, readable on any ground."""
    scale = max(0.3, picture.shape[0] / 900)
    at = (6, int((line + 1) * 34 * scale) + 2)
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
