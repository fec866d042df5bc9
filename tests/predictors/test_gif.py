"""A GIF's frames, delays and colours, as Pillow reads them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from predictors.gif import write_gif


def written(frames, path, *, fps=8, quality=80, comment=None):
    write_gif(frames, path, fps=fps, quality=quality, comment=comment)
    return Image.open(path)


def delays(image):
    hundredths = []
    for index in range(image.n_frames):
        image.seek(index)
        hundredths.append(image.info["duration"] // 10)
    return hundredths


@settings(max_examples=50, deadline=None)
@given(fps=st.integers(1, 50), count=st.integers(2, 40))
def test_delays_add_up_to_the_length_of_the_video(tmp_path_factory, fps, count):
    frames = np.zeros((count, 16, 16, 3), np.uint8)
    frames[::2, :8] = 255
    with written(frames, tmp_path_factory.getbasetemp() / "x.gif", fps=fps) as image:
        found = delays(image)
    assert len(found) == count
    ends = np.cumsum(found)
    assert np.abs(ends - np.arange(1, count + 1) * 100 / fps).max() <= 0.5
    assert min(found) >= 2  # Browsers take shorter ones for 10.


def test_eight_frames_a_second_alternate(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    with written(frames, tmp_path / "x.gif") as image:
        assert delays(image) == [13, 12, 13, 12, 13]


def test_a_gradient_keeps_its_colours_through_dithering(tmp_path):
    y, x = np.mgrid[:96, :128]
    picture = np.stack([2 * x, 2.6 * y, 255 - x - y], -1).clip(0, 255).astype(np.uint8)
    with written(np.stack([picture, picture[::-1]]), tmp_path / "x.gif") as image:
        shown = image.convert("RGB")
    blurred = [
        np.asarray(each.filter(ImageFilter.GaussianBlur(3)), float)[8:-8, 8:-8]
        for each in (shown, Image.fromarray(picture))
    ]
    assert np.abs(blurred[0] - blurred[1]).mean() < 2


def test_parts_that_stand_still_cost_next_to_nothing(tmp_path):
    still = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    one, many = np.stack([still, still]), np.broadcast_to(still, (30, 96, 128, 3))
    written(one, tmp_path / "one.gif").close()
    written(many, tmp_path / "many.gif").close()
    added = (tmp_path / "many.gif").stat().st_size - (tmp_path / "one.gif").stat().st_size
    assert added < 0.1 * (tmp_path / "one.gif").stat().st_size


@pytest.mark.parametrize(("quality", "most"), [(1, 18), (40, 135), (80, 255), (100, 255)])
def test_quality_is_the_number_of_colours(tmp_path, quality, most):
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    with written(noise, tmp_path / "x.gif", quality=quality) as image:
        colours = image.convert("RGB").getcolors(96 * 128)
    assert 0.8 * most < len(colours) <= most


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 1000])
def test_a_comment_of_any_length_is_read_back(tmp_path, length):
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    frames[1] = 200
    with written(frames, tmp_path / "x.gif", comment="x" * length) as image:
        assert image.info.get("comment", b"") == b"x" * length
        assert image.info["loop"] == 0
        assert image.n_frames == 2
