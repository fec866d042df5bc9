"""Scores count what came out right, and the sheet shows it."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from tests.training.nano.bad_clips import BAD_CLIPS
from training.nano.prompts import combination_of, prompt_of
from training.nano.scenes import COLOURS, random_scene, render
from training.nano.score import contact_sheet, score


def scenes(count, **asked):
    rng = np.random.default_rng(0)
    return [random_scene(rng, **asked) for _ in range(count)]


def test_the_score_of_the_ground_truth_is_full():
    drawn = scenes(30)
    result = score(map(render, drawn), [combination_of(scene) for scene in drawn])
    assert result.clips == 30
    assert (result.colour, result.shape, result.direction) == (1, 1, 1)
    assert (result.right, result.clean) == (1, 1)
    assert result.mean_iou > 0.97
    assert set(result.words) == {word for scene in drawn for word in combination_of(scene)}
    assert sum(result.words[shape].clips for shape in ("circle", "square", "triangle")) == 30


def test_a_fault_is_counted_where_it_is():
    red, blue = scenes(2, colour="red", direction="up"), scenes(2, colour="blue", direction="up")
    clips = [render(red[0]), BAD_CLIPS["still"](red[1]), *map(render, blue)]
    asked = [combination_of(scene) for scene in (*red, *blue)]
    result = score(clips, asked)
    assert (result.colour, result.shape, result.direction, result.right) == (1, 1, 0.75, 0.75)
    assert asdict(result.words["red"]) == {"clips": 2, "word": 1.0, "right": 0.5}
    assert asdict(result.words["up"]) == {"clips": 4, "word": 0.75, "right": 0.75}


def test_a_ghost_leaves_a_clip_right_and_not_clean():
    drawn = scenes(4)
    clips = [BAD_CLIPS["ghost"](drawn[0]), *map(render, drawn[1:])]
    result = score(clips, [combination_of(scene) for scene in drawn])
    assert (result.shape, result.right, result.clean) == (1, 1, 0.75)


def test_a_clean_shape_of_another_colour_is_no_clean_clip():
    drawn = scenes(4)
    clips = [BAD_CLIPS["grey"](drawn[0]), *map(render, drawn[1:])]
    result = score(clips, [combination_of(scene) for scene in drawn])
    assert (result.shape, result.right, result.clean) == (1, 0.75, 0.75)


def test_a_model_with_its_words_swapped_scores_near_nothing():
    drawn = scenes(30)
    swapped = [combination_of(scene) for scene in (*drawn[1:], drawn[0])]
    result = score(map(render, drawn), swapped)
    assert result.right <= 0.1
    assert result.clean <= 0.1


def test_the_score_can_be_kept_as_json():
    drawn = scenes(3)
    result = score(map(render, drawn), [combination_of(scene) for scene in drawn])
    assert json.loads(json.dumps(asdict(result)))["words"]


@pytest.mark.parametrize("clips", [0, 2])
def test_a_wrong_number_of_clips_is_refused(clips):
    drawn = scenes(2)
    with pytest.raises(ValueError, match=r"no clips|shorter|longer"):
        score(map(render, drawn[:clips]), [combination_of(drawn[0])] * bool(clips))


def test_the_sheet_shows_first_middle_and_last_frame_of_every_clip():
    drawn = scenes(5)
    clips = [render(scene) for scene in drawn]
    sheet = np.asarray(contact_sheet(clips, [prompt_of(scene) for scene in drawn], columns=2))
    colours = {tuple(pixel) for pixel in sheet.reshape(-1, 3)}
    assert {COLOURS[scene.colour] for scene in drawn} <= colours
    for place, frame in enumerate((0, 4, 8)):
        left = 8 + place * 130
        assert (sheet[8 : 8 + 128 : 2, left : left + 128 : 2] == clips[0][frame]).all()
    assert (sheet < 100).all(axis=2)[8 + 128 : 8 + 128 + 15].any(), "no caption"


def test_every_clip_of_the_sheet_has_a_prompt():
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([render(scenes(1)[0])], [])
