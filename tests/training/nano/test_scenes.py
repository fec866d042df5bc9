"""Scenes are whole, reproducible, and rendered to what they say."""

import hashlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.nano.scenes import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    INRADIUS,
    SHAPES,
    SIZE,
    coverage,
    masks,
    random_scene,
    render,
)


def scenes(seed, count, **asked):
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **asked) for _ in range(count)]


def centroid(covered):
    points = np.arange(SIZE) + 0.5
    return np.array([covered.sum(axis=0) @ points, covered.sum(axis=1) @ points]) / covered.sum()


AREA_OVER_SQUARED_RADIUS = {
    "circle": np.pi,
    "square": np.pi,
    "triangle": 3 * np.sqrt(3) * INRADIUS["triangle"] ** 2,
}


@given(st.integers(0, 2**32), st.booleans())
def test_the_shape_is_whole_in_every_frame_and_moves_as_it_says(seed, independent_start):
    scene = random_scene(np.random.default_rng(seed), independent_start=independent_start)
    covered = masks(scene)
    area = AREA_OVER_SQUARED_RADIUS[scene.shape] * scene.radius**2
    assert np.allclose(covered.sum(axis=(1, 2)), area, rtol=0.02)
    centres = np.array([centroid(frame) for frame in covered])
    assert np.allclose(centres, scene.path, atol=0.07)
    assert np.allclose(np.diff(centres, axis=0).sum(axis=0) / scene.speed / 8,
                       DIRECTIONS[scene.direction], atol=0.01)  # fmt: skip
    assert scene.speed * (FRAMES - 1) >= 12


def test_every_combination_comes_up_and_evenly():
    drawn = [(scene.colour, scene.shape, scene.direction) for scene in scenes(0, 3600)]
    counts = [drawn.count(each) for each in product(COLOURS, SHAPES, DIRECTIONS)]
    assert min(counts) > 25
    assert max(counts) < 80


def test_what_is_asked_for_is_given_and_the_rest_stays():
    plain = scenes(3, 1)[0]
    asked = scenes(3, 1, colour="cyan", shape=plain.shape, direction=plain.direction)[0]
    assert asked.colour == "cyan"
    assert (asked.radius, asked.speed, asked.start) == (plain.radius, plain.speed, plain.start)


def test_an_independent_start_says_nothing_of_the_direction():
    starts = {
        direction: [
            scene.start
            for scene in scenes(7, 50, shape="circle", direction=direction, independent_start=True)
        ]
        for direction in DIRECTIONS
    }
    assert len(set(map(tuple, starts.values()))) == 1
    assert np.ptp(starts["left"], axis=0).min() > 10


def test_other_starts_use_the_whole_canvas():
    starts = np.array([scene.start for scene in scenes(0, 300)])
    assert starts.min() < 12
    assert starts.max() > SIZE - 12


def test_frames_show_the_colour_on_a_constant_dark_background():
    for scene in scenes(5, 20):
        clip, covered = render(scene), masks(scene)
        assert clip.shape == (FRAMES, SIZE, SIZE, 3)
        assert clip.dtype == np.uint8
        assert (clip[covered == 1] == COLOURS[scene.colour]).all()
        assert (clip[covered == 0] == scene.background).all()
        assert max(scene.background) <= 72


def test_edges_are_antialiased_at_any_place():
    middle = np.array([[32.0, 32.0], [32.25, 32.0]])
    for shape in SHAPES:
        covered = coverage(shape, middle, 9.0)
        shifted = covered[1].sum(axis=0) @ np.arange(SIZE) - covered[0].sum(axis=0) @ np.arange(64)
        assert shifted / covered[0].sum() == pytest.approx(0.25, abs=0.02)
        assert np.unique(covered).size >= 4


def test_the_same_seed_gives_the_same_bytes():
    digest = hashlib.sha256()
    for scene in scenes(0, 20) + scenes(0, 20, independent_start=True):
        digest.update(render(scene).tobytes())
    # When this changes, the figures in nano's model card are those of other data.
    assert digest.hexdigest() == "1995490f6354e48e03e2a2c647b64586656b467887fe1649f078cd992c32ca1e"
