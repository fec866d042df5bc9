"""Clips of a word that nano does not know, and the judge who sees whether it learned it."""

from itertools import product

import numpy as np
import pytest

from predictors.video import read_video
from training.nano.prompts import HELD_OUT, RESERVED, parse_prompt
from training.nano.scenes import COLOURS, DIRECTIONS, SHAPES, random_scene, render
from training.nano.tracker import judge
from training.nano.zigzag import (
    WORD,
    draw_zigzag,
    main,
    shows_zigzag,
    write_zigzags,
    zigzag_path,
    zigzag_prompt,
)


def test_the_word_is_one_that_training_never_uses():
    assert WORD in RESERVED


@pytest.mark.parametrize("seed", range(8))
def test_what_is_drawn_zigzags_in_the_colour_and_shape_of_its_prompt(seed):
    rng = np.random.default_rng(seed)
    pixels, prompt = draw_zigzag(rng, str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)))
    verdict = judge(pixels)
    assert shows_zigzag(verdict)
    assert prompt == f"a {verdict.colour} {verdict.shape} moving zigzag"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_moves_straight_does_not_zigzag(direction):
    scene = random_scene(np.random.default_rng(1), direction=direction)
    assert not shows_zigzag(judge(render(scene)))


def test_nothing_does_not_zigzag():
    assert not shows_zigzag(judge(np.full((9, 64, 64, 3), 40, np.uint8)))


def test_the_path_goes_right_and_down_and_then_up():
    path = zigzag_path((10.0, 20.0), 2.0)
    assert path[0].tolist() == [10, 20]
    assert path[4].tolist() == [18, 28]
    assert path[8].tolist() == [26, 20]


def test_the_command_writes_clips_as_sat_reads_them(tmp_path, capsys):
    assert main([str(tmp_path), "--clips", "2"]) == 0
    frames, fps = read_video(tmp_path / "videos" / "000.mp4")
    assert (frames.shape, fps) == ((9, 64, 64, 3), 8)
    assert "zigzag" in (tmp_path / "labels" / "000.txt").read_text()
    assert "zigzag" not in (tmp_path / "labels" / "001.txt").read_text()
    assert capsys.readouterr().out.strip() == str(tmp_path)


def test_every_colour_and_shape_zigzags_and_what_is_known_comes_once(tmp_path):
    write_zigzags(tmp_path, 64)
    prompts = [file.read_text().strip() for file in sorted(tmp_path.glob("labels/*.txt"))]
    zigzags = [prompt for prompt in prompts if WORD in prompt]
    known = [parse_prompt(prompt) for prompt in prompts if WORD not in prompt]
    assert (len(zigzags), len(known)) == (28, 36)
    assert set(zigzags) == {zigzag_prompt(*words) for words in product(COLOURS, SHAPES)}
    assert len(set(known)) == 36
    assert not set(known) & set(HELD_OUT)
