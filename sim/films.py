"""Films of episodes, small enough to sit inside a report and playable in any browser.

`write_film` encodes frames; `tile` sets several episodes side by side, successes on the left and failures on
the right, each under a caption that says what was asked, from which scene, and how it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vla.errors import UnderstudyError

H264_ENCODERS = ("libx264", "libopenh264")
IMAGE_FORMATS = {".gif": "GIF", ".webp": "WEBP"}

# Okabe and Ito's palette: told apart by people who do not tell red from green.
SUCCESS, FAILURE, UNJUDGED = (0, 158, 115), (213, 94, 0), (120, 126, 136)
PAPER, INK = (18, 22, 28), (236, 239, 244)
BORDER, GAP = 3, 8


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


def write_film(path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> Path:
    """Encode ``frames`` at ``fps`` and return the file written.

    The suffix decides: ``.mp4`` is H.264 (yuv420p, indexed for streaming; an odd side is padded by one pixel),
    ``.gif`` and ``.webp`` are animated images. Where PyAV has no H.264 encoder an ``.mp4`` becomes a ``.webp``.
    """
    path = Path(path)
    frames = _checked(frames)
    if not fps > 0:
        raise UnderstudyError(f"a film needs a positive number of frames per second, got {fps}")
    if path.suffix not in (".mp4", *IMAGE_FORMATS):
        raise UnderstudyError(f"a film is written as .mp4, .webp or .gif, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = next((name for name in H264_ENCODERS if name in av.codecs_available), None)
    if path.suffix == ".mp4" and encoder is not None:
        _write_h264(path, frames, fps, encoder)
        return path
    path = path if path.suffix in IMAGE_FORMATS else path.with_suffix(".webp")
    images = [Image.fromarray(frame) for frame in frames]
    format_ = IMAGE_FORMATS[path.suffix]
    images[0].save(path, format_, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return path


def _checked(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise UnderstudyError(f"a film is [T, H, W, 3] uint8 with T ≥ 1, got {frames.shape} {frames.dtype}")
    return frames


def _write_h264(path: Path, frames: np.ndarray, fps: float, encoder: str) -> None:
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
    checked = [_checked(film) for film in films]
    if len({film.shape[1:] for film in checked}) > 1:
        raise UnderstudyError(f"films of different sizes cannot be tiled: {sorted({f.shape[1:3] for f in checked})}")
    length = max(len(film) for film in checked)
    cells = [_cell(film, caption, length) for film, caption in zip(checked, captions, strict=True)]
    wins = [cell for cell, caption in zip(cells, captions, strict=True) if caption.success]
    rest = [cell for cell, caption in zip(cells, captions, strict=True) if not caption.success]
    blocks = [_block(group, rows) for group in (wins, rest) if group]
    height = max(block.shape[1] for block in blocks)
    blocks = [_padded(block, height - block.shape[1], 0) for block in blocks]
    between = np.full((length, height, 3 * GAP, 3), PAPER, np.uint8)
    return blocks[0] if len(blocks) == 1 else np.concatenate([blocks[0], between, blocks[1]], axis=2)


def _cell(film: np.ndarray, caption: Caption, length: int) -> np.ndarray:
    """Caption over film inside a border of the outcome's colour; ``length`` frames long."""
    factor = max(1, ceil(192 / film.shape[2]))
    film = film.repeat(factor, axis=1).repeat(factor, axis=2)
    colour = UNJUDGED if caption.success is None else SUCCESS if caption.success else FAILURE
    header = np.asarray(_caption(caption, film.shape[2] + 2 * BORDER, colour))
    height, width = film.shape[1:3]
    cell = np.full((length, height + len(header) + BORDER, width + 2 * BORDER, 3), colour, np.uint8)
    cell[:, : len(header)] = header
    place = np.s_[:, len(header) : len(header) + height, BORDER : BORDER + width]
    cell[: len(film)][place] = film
    cell[len(film) :][place] = film[-1] // 2
    return cell


def _caption(caption: Caption, width: int, colour: tuple[int, int, int]) -> Image.Image:
    """Instruction (two lines at most), outcome with a mark that is a shape as well as a colour, and the seed."""
    font, line = ImageFont.load_default(13), 18
    picture = Image.new("RGB", (width, 4 * line + 6), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(_wrapped(caption.instruction, font, width - 10)):
        draw.text((5, 3 + row * line), text, INK, font)
    top = 3 + 2 * line
    if caption.success:
        draw.ellipse((6, top + 3, 16, top + 13), colour)
    else:
        draw.line((6, top + 3, 16, top + 13), colour, 3)
        draw.line((6, top + 13, 16, top + 3), colour, 3)
    draw.text((22, top), caption.outcome, INK, font)
    draw.text((22, top + line), f"seed {caption.seed}", (160, 168, 180), font)
    return picture


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


def _block(cells: list[np.ndarray], rows: int) -> np.ndarray:
    """Cells in a grid filled row by row, at most ``rows`` high."""
    columns = ceil(len(cells) / rows)
    spaced = [_padded(cell, GAP, GAP) for cell in cells]
    blank = np.full_like(spaced[0], PAPER)
    spaced += [blank] * (-len(spaced) % columns)
    lines = [np.concatenate(spaced[i : i + columns], axis=2) for i in range(0, len(spaced), columns)]
    return np.concatenate(lines, axis=1)


def _padded(film: np.ndarray, down: int, right: int) -> np.ndarray:
    bigger = np.full((len(film), film.shape[1] + down, film.shape[2] + right, 3), PAPER, np.uint8)
    bigger[:, : film.shape[1], : film.shape[2]] = film
    return bigger
