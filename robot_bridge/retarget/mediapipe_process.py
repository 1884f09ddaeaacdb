"""The process that finds hands with MediaPipe, in an environment of its own.

MediaPipe wants a protobuf that the rest of the program cannot work with; so this file imports nothing of ours and is
run by another Python (see `robot_bridge.retarget.tracker`). It reads pictures from stdin and answers each on stdout:

    in   width, height: two uint32;  then height · width · 3 bytes of RGB
    out  hands: one byte;  then for each: 'L' or 'R' (one byte), its score (float32), [21, 3] image and [21, 3] world
         keypoints (float32), all little-endian

Image keypoints are MediaPipe's: shares of width and height, and of the width for the depth.
"""

import argparse
import os
import struct
import sys
from typing import Any, BinaryIO

import numpy as np

SIZE, HAND = struct.Struct("<II"), struct.Struct("<cf")
MIRRORED = {"Left": b"R", "Right": b"L"}
"""MediaPipe takes every picture for a selfie."""


def main() -> int:
    """Answer pictures until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--complexity", type=int, default=0)
    parser.add_argument("--confidence", type=float, default=0.5)
    parser.add_argument("--each-by-itself", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("GLOG_minloglevel", "2")  # before MediaPipe is imported
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what its libraries print must not stand between answers
    from mediapipe.python.solutions.hands import Hands

    with Hands(
        static_image_mode=given.each_by_itself,
        max_num_hands=2,
        model_complexity=given.complexity,
        min_detection_confidence=given.confidence,
        min_tracking_confidence=given.confidence,
    ) as hands:
        answers.write(b"\0")  # ready
        answers.flush()
        while (picture := read_picture(sys.stdin.buffer)) is not None:
            answers.write(answer(hands.process(picture)))
            answers.flush()
    return 0


def read_picture(source: BinaryIO) -> "np.ndarray | None":
    """The next one [H, W, 3] uint8; ``None`` at the end."""
    head = source.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    width, height = SIZE.unpack(head)
    body = source.read(width * height * 3)
    return None if len(body) < width * height * 3 else np.frombuffer(body, np.uint8).reshape(height, width, 3)


def answer(found: Any) -> bytes:
    """What MediaPipe says of one picture, as it goes out."""
    seen = found.multi_hand_landmarks or []
    parts = [bytes([len(seen)])]
    for image, world, side in zip(seen, found.multi_hand_world_landmarks or [], found.multi_handedness or []):
        told = side.classification[0]
        parts.append(HAND.pack(MIRRORED[told.label], told.score))
        parts += [keypoints(one).tobytes() for one in (image, world)]
    return b"".join(parts)


def keypoints(landmarks: Any) -> np.ndarray:
    """[21, 3] little-endian float32."""
    return np.array([(point.x, point.y, point.z) for point in landmarks.landmark], "<f4")


if __name__ == "__main__":
    sys.exit(main())
