"""The tracker agrees with the ground truth, also through noise, and refuses what is not.

What is clean is right, so that what is shown to be clean is shown to be right as well.
"""

from dataclasses import replace

import numpy as np
import pytest

from predictors.video import read_video, write_video
from tests.training.nano.bad_clips import (
    BAD_CLIPS,
    RIGHT_BUT_NOT_CLEAN,
    SHAPES_OF,
    SOMETIMES_RIGHT,
    next_shape,
)
from training.nano.prompts import combination_of
from training.nano.scenes import DIRECTIONS, SHAPES, random_scene, render
from training.nano.tracker import NONE, is_right, judge, shape_is_clean, shape_is_right


def scenes(seed, count, **asked):
    """Scenes of both kinds of start in turn."""
    rng = np.random.default_rng(seed)
    return [random_scene(rng, independent_start=bool(n % 2), **asked) for n in range(count)]


def right(scene, clip):
    return is_right(judge(clip), *combination_of(scene))


def clean(scene, clip):
    verdict = judge(clip)
    return is_right(verdict, *combination_of(scene)) and shape_is_clean(verdict, scene.shape)


def as_pixels(values):
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def blurred(clip, sigma=0.7):
    reach = np.arange(-4, 5)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    values = clip.astype(np.float64)
    for axis in (1, 2):
        edges = [(4, 4) if axis == each else (0, 0) for each in range(4)]
        padded = np.pad(values, edges, mode="edge")
        shifted = [padded.take(range(n, n + clip.shape[axis]), axis) for n in range(9)]
        values = np.tensordot(kernel / kernel.sum(), shifted, axes=1)
    return as_pixels(values)


def noisy(clip):
    return as_pixels(clip + np.random.default_rng(clip.sum()).normal(0, 6, clip.shape))


def through_h264(clip, folder):
    write_video(clip, folder / "clip.mp4", fps=8)
    return read_video(folder / "clip.mp4")[0]


def test_the_ground_truth_is_right_and_clean():
    judged = [(judge(render(scene)), scene) for scene in scenes(0, 500)]
    rights = [is_right(verdict, *combination_of(scene)) for verdict, scene in judged]
    cleans = [shape_is_clean(verdict, scene.shape) for verdict, scene in judged]
    assert np.mean(rights) >= 0.99
    assert np.mean(np.logical_and(rights, cleans)) >= 0.99
    assert np.mean([verdict.ious[scene.shape] for verdict, scene in judged]) > 0.97


@pytest.mark.parametrize(
    "change",
    [
        blurred,
        noisy,
        lambda clip: as_pixels(clip * 1.1),
        lambda clip: as_pixels(clip * 0.9),
    ],
    ids=["blurred", "noisy", "brighter", "darker"],
)
def test_what_leaves_the_clip_as_it_is_to_the_eye_leaves_it_clean(change):
    assert np.mean([clean(scene, change(render(scene))) for scene in scenes(1, 60)]) >= 0.99


def test_a_video_file_is_judged_like_its_frames(tmp_path):
    drawn = scenes(2, 60)
    clips = [through_h264(noisy(blurred(render(scene))), tmp_path) for scene in drawn]
    assert np.mean([clean(*pair) for pair in zip(drawn, clips, strict=True)]) >= 0.98


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_bad_clips_are_refused(name):
    for number, shape in enumerate(2 * SHAPES_OF.get(name, SHAPES)):
        scene = scenes(number, 1, shape=shape)[0]
        clip = BAD_CLIPS[name](scene)
        assert not clean(scene, clip), scene
        if name not in SOMETIMES_RIGHT:
            assert right(scene, clip) == (name in RIGHT_BUT_NOT_CLEAN), scene


@pytest.mark.parametrize(
    ("change", "is_right", "is_clean"),
    [
        ({}, True, True),
        ({"ious": {"circle": 0.79, "square": 0.85, "triangle": 0.5}}, True, True),
        ({"ious": {"circle": 0.7, "square": 0.84, "triangle": 0.5}}, False, False),
        ({"ious": {"circle": 0.9, "square": 0.89, "triangle": 0.5}}, False, False),
        ({"ious": {"circle": 0.92, "square": 0.95, "triangle": 0.5}}, True, False),
        ({"shape": NONE, "blemish": None, "edge": None}, True, False),
        ({"blemish": 0.02}, True, False),
        ({"edge": 3.0}, True, False),
    ],
    ids=["all", "just", "poor fit", "second", "short lead", "not throughout", "blemish", "smear"],
)
def test_a_shape_is_right_by_its_overlap_and_clean_by_all_the_rest(change, is_right, is_clean):
    verdict = replace(judge(render(scenes(3, 1, shape="square")[0])), **change)
    assert shape_is_right(verdict, "square") == is_right
    assert shape_is_clean(verdict, "square") == is_clean


def test_swapped_words_are_noticed():
    for scene in scenes(4, 20):
        verdict = judge(render(scene))
        colour, shape, direction = combination_of(scene)
        other_direction = next(name for name in DIRECTIONS if name != direction)
        assert not shape_is_clean(verdict, next_shape(scene))
        assert not is_right(verdict, "green" if colour == "red" else "red", shape, direction)
        assert not is_right(verdict, colour, next_shape(scene), direction)
        assert not is_right(verdict, colour, shape, other_direction)


def test_each_attribute_is_judged_by_itself():
    scene = scenes(5, 1, colour="red", shape="square", direction="up")[0]
    verdict = judge(BAD_CLIPS["still"](scene))
    assert (verdict.colour, verdict.shape, verdict.direction) == ("red", "square", NONE)
    assert shape_is_clean(verdict, "square")
    verdict = judge(BAD_CLIPS["between colours"](scene))
    assert (verdict.colour, verdict.shape, verdict.direction) == (NONE, "square", "up")
    verdict = judge(BAD_CLIPS["shape changes"](scene))
    assert (verdict.colour, verdict.shape, verdict.direction) == ("red", NONE, "up")


def test_the_path_is_where_the_object_is():
    for scene in scenes(6, 10):
        assert np.allclose(judge(render(scene)).path, scene.path, atol=0.3)


def test_one_missing_frame_is_forgiven_and_two_are_not():
    for scene in scenes(7, 5):
        clip = render(scene)
        clip[3] = scene.background
        assert clean(scene, clip)
        clip[4] = scene.background
        assert not right(scene, clip)


def test_saturated_colours_are_still_these_colours():
    """What guidance does to colours."""
    for scene in scenes(8, 20):
        clip = render(scene).astype(np.float64)
        assert clean(scene, as_pixels((clip - 45) * 1.4 + 30))


@pytest.mark.parametrize(
    "clip", [np.zeros((9, 64, 64, 3)), np.zeros((8, 64, 64, 3), np.uint8)], ids=["floats", "short"]
)
def test_what_is_no_clip_is_refused(clip):
    with pytest.raises(ValueError, match="a clip is uint8"):
        judge(clip)
