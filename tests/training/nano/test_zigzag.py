"""Clips of a word that nano does not know, and the judge who sees whether it learned it."""

import numpy as np
import pytest

from predictors.video import read_video
from training.nano.prompts import RESERVED
from training.nano.scenes import DIRECTIONS, random_scene, render
from training.nano.tracker import judge
from training.nano.zigzag import WORD, draw_zigzag, main, shows_zigzag, zigzag_path


def test_the_word_is_one_that_training_never_uses():
    assert WORD in RESERVED


@pytest.mark.parametrize("seed", range(8))
def test_what_is_drawn_zigzags_in_the_colour_and_shape_of_its_prompt(seed):
    pixels, prompt = draw_zigzag(np.random.default_rng(seed))
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
