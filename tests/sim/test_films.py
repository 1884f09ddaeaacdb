"""Films decode to what was put in, and a tile says what each episode was."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from sim.films import Caption, tile, write_film
from vla.errors import UnderstudyError


def moving_square(length=12, height=64, width=96):
    frames = np.full((length, height, width, 3), 60, np.uint8)
    for index in range(length):
        frames[index, 20:40, 3 * index : 3 * index + 20] = (200, 40, 40)
    return frames


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, stream.codec_context.name, stream.pix_fmt, stream.average_rate


def test_an_mp4_holds_every_frame_in_a_form_that_browsers_play(tmp_path):
    frames = moving_square()
    path = write_film(tmp_path / "deep" / "film.mp4", frames, fps=20)
    back, codec, pixels, rate = decoded(path)
    assert back.shape == frames.shape
    assert (codec, pixels, rate) == ("h264", "yuv420p", 20)
    assert np.abs(back.astype(int) - frames).mean() < 4
    data = path.read_bytes()
    # The index lies before the pictures, so that a browser starts without the whole file.
    assert data.index(b"moov") < data.index(b"mdat")


@settings(max_examples=12, deadline=None)
@given(length=st.integers(1, 5), height=st.integers(2, 40), width=st.integers(2, 40), fps=st.sampled_from([1, 7.5, 30]))
def test_any_size_and_length_is_kept_but_for_the_padding_to_even_sides(tmp_path_factory, length, height, width, fps):
    frames = moving_square(length, 64, 96)[:, :height, :width]
    back, _, _, rate = decoded(write_film(tmp_path_factory.mktemp("film") / "film.mp4", frames, fps))
    assert back.shape == (length, height + height % 2, width + width % 2, 3)
    assert rate == Fraction(fps)


def test_a_webp_holds_every_frame_that_differs(tmp_path):
    path = write_film(tmp_path / "film.webp", moving_square(), fps=20)
    with Image.open(path) as picture:
        frames = [frame.copy() for frame in ImageSequence.Iterator(picture)]
        assert [len(frames), picture.size] == [12, (96, 64)]
        assert picture.info["duration"] == 50


def test_captions_stand_over_the_picture_and_change_with_it(tmp_path):
    frames = moving_square(4)
    back, *_ = decoded(write_film(tmp_path / "film.mp4", frames, 10, ["lift the cube"] * 2 + ["open the drawer"] * 2))
    assert len(back) == 4
    bar = back.shape[1] - 2 * frames.shape[1]
    assert back[0, :bar].max() > 180
    same, changed = (np.abs(back[0, :bar].astype(int) - back[i, :bar]).mean() for i in (1, 3))
    assert changed > 5 * same
    one, *_ = decoded(write_film(tmp_path / "one.mp4", frames, 10, "lift the cube"))
    assert one.shape == back.shape


@pytest.mark.parametrize(
    ("name", "frames", "fps", "captions", "message"),
    [
        ("film.avi", moving_square(), 20, "", "film.avi"),
        ("film.mp4", moving_square(), 0, "", "positive"),
        ("film.mp4", moving_square()[:0], 20, "", "T ≥ 1"),
        ("film.mp4", moving_square().astype(np.float32), 20, "", "float32"),
        ("film.mp4", moving_square(), 20, ["a", "b"], "2 texts, 12 frames"),
    ],
)
def test_what_is_no_film_is_refused(tmp_path, name, frames, fps, captions, message):
    with pytest.raises(UnderstudyError, match=message):
        write_film(tmp_path / name, frames, fps, captions)
    assert not (tmp_path / name).exists()


def border_colours(canvas):
    """The colours of the bottom row of the picture: the borders of the films above it, left to right."""
    row = canvas[0][-9]
    return [tuple(int(v) for v in row[i]) for i in range(len(row)) if i == 0 or (row[i] != row[i - 1]).any()]


def test_a_tile_puts_successes_left_and_failures_right_and_lasts_as_long_as_the_longest():
    films = [moving_square(5, 64, 200), moving_square(9, 64, 200), moving_square(3, 64, 200)]
    captions = [Caption("lift", 1, False, 5), Caption("lift", 2, True, 9), Caption("lift", 3, None)]
    canvas = tile(films, captions, rows=1)
    assert len(canvas) == 9
    success, failure, unjudged = (0, 158, 115), (213, 94, 0), (120, 126, 136)
    colours = [colour for colour in border_colours(canvas) if colour in (success, failure, unjudged)]
    assert colours == [success, failure, unjudged]


def test_a_film_that_is_over_holds_its_last_frame_dimmed():
    short, long = np.full((2, 64, 200, 3), 200, np.uint8), np.full((6, 64, 200, 3), 200, np.uint8)
    canvas = tile([short, long], [Caption("lift", 1, True, 2), Caption("lift", 2, True, 6)], rows=1)
    middle, width = canvas.shape[1] // 2 + 20, canvas.shape[2]
    left, right = canvas[:, middle, width // 4], canvas[:, middle, 3 * width // 4]
    assert (left[:2] == 200).all()
    assert (left[2:] == 130).all()
    assert (right == 200).all()


def test_an_endless_instruction_fits_its_cell():
    caption = Caption("put " * 80 + "w" * 300, 1, True, 3)
    assert tile([moving_square()], [caption]).shape[2] < 300


def test_films_that_do_not_fit_together_are_refused():
    with pytest.raises(UnderstudyError, match="different sizes"):
        tile([moving_square(), moving_square(height=32)], [Caption("a", 1, True), Caption("b", 2, True)])
    with pytest.raises(UnderstudyError, match="1 films, 0 captions"):
        tile([moving_square()], [])
