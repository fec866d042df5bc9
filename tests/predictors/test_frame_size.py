"""Sizes are the variant's own, the request's where legal, or the one that suits the image best."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.frame_size import frame_size, shown_sizes
from weights.errors import UserError
from weights.variants import VARIANTS

NANO, FIVE_B_I2V = VARIANTS["nano-i2v"], VARIANTS["cogvideox-5b-i2v"]
FREE = VARIANTS["cogvideox1.5-5b-i2v"]
image_sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


def test_only_one_variant_has_a_choice():
    assert [v.name for v in VARIANTS.values() if len(v.legal_sizes) > 1] == [FREE.name]


def test_the_free_variants_sizes_are_upstreams():
    """min(W, H) = 768, 768 ≤ max(W, H) ≤ 1360, max(W, H) % 16 = 0, of the model card."""
    sides = range(1, 1500)
    upstreams = {
        (width, height)
        for width in sides
        for height in sides
        if min(width, height) == 768 and max(width, height) <= 1360
        if max(width, height) % 16 == 0
    }
    assert set(FREE.legal_sizes) == upstreams
    assert len(FREE.legal_sizes) == len(upstreams) == 75


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_has_its_own_size_first(variant):
    own = (variant.width, variant.height)
    assert variant.legal_sizes[0] == frame_size(variant, 0, 0) == own
    assert all(side % 16 == 0 for size in variant.legal_sizes for side in size)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_legal_size_is_taken(variant):
    for size in variant.legal_sizes:
        assert frame_size(variant, *size) == size
        assert frame_size(variant, *size, (10, 3000)) == size


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((4032, 3024), (1024, 768)),
        ((3024, 4032), (768, 1024)),
        ((1920, 1080), (1360, 768)),
        ((64, 64), (768, 768)),
        ((9000, 1000), (1360, 768)),
        ((1000, 9000), (768, 1360)),
    ],
)
def test_the_video_follows_its_image(image_size, expected):
    assert frame_size(FREE, 0, 0, image_size) == expected
    assert frame_size(FIVE_B_I2V, 0, 0, image_size) == (720, 480)


@given(image_size=image_sizes)
def test_no_legal_size_has_a_shape_closer_to_the_images(image_size):
    def shape(size):
        return math.log(size[0] / size[1])

    width, height = frame_size(FREE, 0, 0, image_size)
    distance = abs(shape((width, height)) - shape(image_size))
    assert all(distance <= abs(shape(size) - shape(image_size)) + 1e-9 for size in FREE.legal_sizes)


@given(image_size=image_sizes)
def test_a_turned_image_gives_a_turned_video(image_size):
    width, height = frame_size(FREE, 0, 0, image_size)
    assert frame_size(FREE, 0, 0, image_size[::-1]) == (height, width)


@pytest.mark.parametrize(
    ("width", "height", "image_size", "expected"),
    [
        (1360, 0, (64, 64), (1360, 768)),
        (0, 1024, (1920, 1080), (768, 1024)),
        (768, 0, (3024, 4032), (768, 1024)),
        (768, 0, (1920, 1080), (768, 768)),
        (0, 768, None, (1360, 768)),
        (0, 768.0, (4032, 3024), (1024, 768)),
    ],
)
def test_one_side_leaves_the_other_to_the_image(width, height, image_size, expected):
    size = frame_size(FREE, width, height, image_size)
    assert size == expected
    assert all(type(side) is int for side in size)


@pytest.mark.parametrize(
    ("variant", "width", "height", "message"),
    [
        (
            NANO,
            720,
            480,
            "width is 720 and height is 480. nano-i2v makes videos of 64×64. "
            "Use width 64 and height 64, or 0 to have them chosen.",
        ),
        (FIVE_B_I2V, 480, 720, "Use width 720 and height 480,"),
        (FIVE_B_I2V, 0, 720, "height is 720. cogvideox-5b-i2v makes videos of 720×480."),
        (
            FREE,
            700,
            1020,
            "cogvideox1.5-5b-i2v makes videos of 768 by 768, 784, … 1360, wide or upright. "
            "Use width 768 and height 1024,",
        ),
        (FREE, 4000, 0, "width is 4000. "),
        (FREE, 4000, 0, "Use width 1360 and height 768,"),
        (FREE, 800, 800, "Use width 800 and height 768,"),
    ],
)
def test_other_sizes_are_refused_with_the_nearest(variant, width, height, message):
    with pytest.raises(UserError) as caught:
        frame_size(variant, width, height, (64, 64))
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [-1, -768, 767.5, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_of_pixels_is_refused_by_name(value):
    with pytest.raises(UserError, match=r"^width is .* whole number"):
        frame_size(FREE, value, 768)
    with pytest.raises(UserError, match=r"^height is .* whole number"):
        frame_size(FREE, 0, value)


def test_sizes_are_shown_in_words():
    assert shown_sizes(NANO) == "64×64"
    assert shown_sizes(FREE) == "768 by 768, 784, … 1360, wide or upright"
