"""Crops are SAT's: the same numbers as its formulas, the same pixels as torchvision's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.dataset.centre_crop import centre_crop, cropped

sides = st.integers(1, 5000)
sizes = st.sampled_from([(64, 64), (720, 480), (1360, 768), (768, 1360)])


def sat_crop(shape, size):
    """The lines of resize_for_rectangle_crop for one picture, as they are in SAT."""
    (width, height), image_size = shape, (size[1], size[0])
    if width / height > image_size[1] / image_size[0]:
        h, w = image_size[0], int(width * image_size[0] / height)
    else:
        h, w = int(height * image_size[1] / width), image_size[1]
    return (w, h), (w - image_size[1]) // 2, (h - image_size[0]) // 2


@settings(deadline=None)
@given(sides, sides, sizes)
def test_the_numbers_are_those_of_sat(width, height, size):
    crop = centre_crop((width, height), size)
    assert (crop.scaled, crop.left, crop.top) == sat_crop((width, height), size)


@settings(deadline=None)
@given(sides, sides, sizes)
def test_the_picture_covers_the_size_and_one_side_fits(width, height, size):
    crop = centre_crop((width, height), size)
    assert crop.scaled[0] >= size[0]
    assert crop.scaled[1] >= size[1]
    assert crop.scaled[0] == size[0] or crop.scaled[1] == size[1]
    assert 0 < crop.kept <= 1


def test_a_portrait_in_a_landscape_loses_more_than_half():
    assert centre_crop((1080, 1920), (720, 480)).kept == pytest.approx(0.375)
    assert centre_crop((1440, 960), (720, 480)).kept == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 2**32 - 1))
def test_the_pixels_are_those_of_scaling_first_and_cropping_then(width, height, seed):
    # Where pixels may become lighter than white in between, the order of the two passes shows.
    noise = np.random.default_rng(seed).integers(64, 192, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    crop = centre_crop(image.size, (72, 48))
    whole = image.resize(crop.scaled, Image.Resampling.BICUBIC)
    expected = whole.crop((crop.left, crop.top, crop.left + 72, crop.top + 48))
    got = cropped(image, crop)
    assert got.size == (72, 48)
    assert abs(np.asarray(got, int) - np.asarray(expected, int)).max() <= 2


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (100, 40), (72, 48), (50, 30)])
def test_the_pixels_are_those_of_torchs_antialiased_bicubic(shape):
    width, height = shape
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    crop = centre_crop(shape, (72, 48))
    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(noise).permute(2, 0, 1)[None],
        (crop.scaled[1], crop.scaled[0]),
        mode="bicubic",
        antialias=True,
    )[0]
    expected = scaled[:, crop.top : crop.top + 48, crop.left : crop.left + 72].permute(1, 2, 0)
    got = np.asarray(cropped(Image.fromarray(noise), crop), int)
    assert abs(got - expected.numpy()).max() <= 2


def test_a_panorama_takes_no_more_memory_than_its_middle():
    image = Image.new("L", (60_000, 4))
    crop = centre_crop(image.size, (1360, 768))
    assert crop.scaled == (11_520_000, 768)
    assert cropped(image, crop).size == (1360, 768)
