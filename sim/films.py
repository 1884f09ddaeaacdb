"""Films of episodes, small enough to sit inside a report and playable in any browser.

`write_film` encodes frames, under a line of text where one is given; `tile` sets several episodes side by side,
successes on the left and failures on the right, each under a caption that says what was asked, from which scene, and
how it ended.

    write_film("films/lift-7.mp4", frames, fps=20)
    write_film("films/all.mp4", tile([frames, others], [Caption("lift the red cube", 7, True, 42), …]), fps=20)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import ceil
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vla.errors import UnderstudyError

H264_ENCODERS = ("libx264", "libopenh264")
IMAGE_FORMATS = (".gif", ".webp")

# Okabe and Ito's palette: told apart by people who do not tell red from green.
SUCCESS, FAILURE, UNJUDGED = (0, 158, 115), (213, 94, 0), (120, 126, 136)
PAPER, INK = (18, 22, 28), (236, 239, 244)
BORDER, GAP, MIN_WIDTH, DIMMED = 3, 8, 192, 0.65
LINE = 18
CAPTION_HEIGHT = 4 * LINE + 6


@dataclass(frozen=True)
class Caption:
    """What is written over one episode of a tile film; ``success`` is None when nobody judged it."""

    instruction: str
    seed: int
    success: bool | None
    steps: int | None = None

    @property
    def outcome(self) -> str:
        """``success in 42 steps``, ``failure after 120 steps`` or ``not judged``."""
        if self.success is None:
            return "not judged"
        word, link = ("success", "in") if self.success else ("failure", "after")
        return word if self.steps is None else f"{word} {link} {self.steps} steps"


def write_film(
    path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float, captions: str | Sequence[str] = ""
) -> Path:
    """Encode ``frames`` at ``fps`` frames per second, one film frame for each, and return the file written.

    The suffix decides: ``.mp4`` is H.264 (yuv420p, indexed for streaming; an odd side is padded by one pixel),
    ``.gif`` and ``.webp`` are animated images. ``captions``: one text for the whole film or one per frame, written
    over the picture; small frames are then enlarged so that it can be read.
    """
    path = Path(path)
    frames = _checked(frames)
    if not fps > 0:
        raise UnderstudyError(f"a film needs a positive number of frames per second, got {fps}")
    if path.suffix not in (".mp4", *IMAGE_FORMATS):
        raise UnderstudyError(f"a film is written as .mp4, .webp or .gif, got {path.name!r}")
    frames = _under_text(frames, captions) if captions else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        _write_h264(path, frames, fps)
    else:
        images = [Image.fromarray(frame) for frame in frames]
        # These formats join equal frames into one that lasts longer: it plays alike.
        images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return path


def _checked(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise UnderstudyError(f"a film is [T, H, W, 3] uint8 with T ≥ 1, got {frames.shape} {frames.dtype}")
    return frames


def _write_h264(path: Path, frames: np.ndarray, fps: float) -> None:
    encoder = next((name for name in H264_ENCODERS if name in av.codecs_available), None)
    if encoder is None:
        raise UnderstudyError(
            f"this PyAV has no H.264 encoder ({' or '.join(H264_ENCODERS)}): install PyAV's own wheel, or write a .webp"
        )
    # 4:2:0 chroma needs even sides.
    odd = [(0, side % 2) for side in frames.shape[1:3]]
    frames = np.pad(frames, [(0, 0), *odd, (0, 0)], mode="edge")
    with av.open(path, "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if encoder == "libx264":
            stream.options = {"crf": "23", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _under_text(frames: np.ndarray, captions: str | Sequence[str]) -> np.ndarray:
    texts = [captions] * len(frames) if isinstance(captions, str) else list(captions)
    if len(texts) != len(frames):
        raise UnderstudyError(f"captions are one text or one per frame: {len(texts)} texts, {len(frames)} frames")
    frames = _enlarged(frames)
    size = (frames.shape[2], 2 * LINE + 6)
    bars = {text: np.asarray(_text_bar(text, size)) for text in set(texts)}
    return np.concatenate([np.stack([bars[text] for text in texts]), frames], axis=1)


def _enlarged(frames: np.ndarray) -> np.ndarray:
    factor = max(1, ceil(MIN_WIDTH / frames.shape[2]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def tile(
    films: Sequence[UInt8[np.ndarray, "t h w 3"]], captions: Sequence[Caption], *, rows: int = 2
) -> UInt8[np.ndarray, "t h w 3"]:
    """One film of several episodes, at most ``rows`` high: successes left, the others right, with a gap between.

    A film that is over holds its last frame, dimmed. Small films are enlarged so that captions can be read.

        ┌ lift the red cube ┐ ┌ lift the red cube ┐   ┌ lift the red cube ┐
        │ ● success, seed 3 │ │ ● success, seed 5 │   │ × failure, seed 4 │
        │       film        │ │       film        │   │       film        │
        └───────────────────┘ └───────────────────┘   └───────────────────┘
    """
    if len(films) != len(captions) or not films or rows < 1:
        raise UnderstudyError(f"a tile film needs one caption per film: {len(films)} films, {len(captions)} captions")
    checked = [_enlarged(_checked(film)) for film in films]
    if len({film.shape[1:] for film in checked}) > 1:
        raise UnderstudyError(f"films of different sizes cannot be tiled: {sorted({f.shape[1:3] for f in checked})}")
    length, (height, width) = max(len(film) for film in checked), checked[0].shape[1:3]
    cell = (CAPTION_HEIGHT + height + BORDER, width + 2 * BORDER)
    corners, size = _grid([bool(caption.success) for caption in captions], cell, rows)
    canvas = np.full((length, *size, 3), PAPER, np.uint8)
    for film, caption, (top, left) in zip(checked, captions, corners, strict=True):
        _draw(canvas[:, top : top + cell[0], left : left + cell[1]], film, caption)
    return canvas


def _grid(wins: Sequence[bool], cell: tuple[int, int], rows: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The (top, left) pixel of every cell, and the (height, width) of the whole: wins in the left block."""
    counts = {side: sum(won is side for won in wins) for side in (True, False)}
    columns = {side: ceil(count / rows) for side, count in counts.items()}
    height, width = cell[0] + GAP, cell[1] + GAP
    right = columns[True] * width + (3 * GAP if all(counts.values()) else 0)
    corners, seen = [], {True: 0, False: 0}
    for won in wins:
        row, column = divmod(seen[won], columns[won])
        corners.append((row * height, column * width + (0 if won else right)))
        seen[won] += 1
    highest = max(ceil(counts[side] / columns[side]) for side in counts if counts[side])
    return corners, (highest * height, right + columns[False] * width)


def _draw(view: np.ndarray, film: np.ndarray, caption: Caption) -> None:
    """Caption over film inside a border of the outcome's colour, into ``view`` [T, H, W, 3]."""
    colour = UNJUDGED if caption.success is None else SUCCESS if caption.success else FAILURE
    view[:] = colour
    view[:, :CAPTION_HEIGHT] = np.asarray(_caption(caption, view.shape[2], colour))
    inside = view[:, CAPTION_HEIGHT:-BORDER, BORDER:-BORDER]
    inside[: len(film)] = film
    inside[len(film) :] = film[-1] * DIMMED


def _caption(caption: Caption, width: int, colour: tuple[int, int, int]) -> Image.Image:
    """Instruction (two lines at most), outcome with a mark that is a shape as well as a colour, and the seed."""
    picture = _text_bar(caption.instruction, (width, CAPTION_HEIGHT))
    draw, font = ImageDraw.Draw(picture), _font()
    top = 3 + 2 * LINE
    if caption.success is None:
        draw.line((6, top + 8, 16, top + 8), colour, 3)
    elif caption.success:
        draw.ellipse((6, top + 3, 16, top + 13), colour)
    else:
        draw.line((6, top + 3, 16, top + 13), colour, 3)
        draw.line((6, top + 13, 16, top + 3), colour, 3)
    draw.text((22, top), caption.outcome, INK, font)
    draw.text((22, top + LINE), f"seed {caption.seed}", (160, 168, 180), font)
    return picture


def _text_bar(text: str, size: tuple[int, int]) -> Image.Image:
    """A (width, height) picture with ``text`` in its first two lines."""
    picture, font = Image.new("RGB", size, PAPER), _font()
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(_wrapped(text, font, size[0] - 10)):
        draw.text((5, 3 + row * LINE), line, INK, font)
    return picture


@cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, lines: int = 2) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels; what does not fit ends in an ellipsis."""
    done, line, words = [], "", text.split()
    while words and len(done) < lines:
        longer = f"{line} {words[0]}".strip()
        if font.getlength(longer) <= width:
            line = longer
            words.pop(0)
        elif line:
            done.append(line)
            line = ""
        else:
            # One word wider than the cell: let it run over the edge.
            done.append(words.pop(0))
    if len(done) < lines and line:
        done.append(line)
    elif words or line:
        done[-1] += " …"
    return done
