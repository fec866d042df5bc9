"""The contact sheet shows what training sees, and text that keeps to its place."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from tests.training.dataset.small_datasets import RULES, numbers, write_clip, write_picture
from training.dataset import contact_sheet
from training.dataset.clip import Clip, Problem
from training.dataset.contact_sheet import fitted_lines, write_contact_sheet
from training.dataset.report import DatasetReport

FONT = ImageFont.load_default(12)


def report(*clips, left_out=()):
    return DatasetReport(used=clips, left_out=left_out, notes=())


def clip_of(path, prompt="a red circle", frames=9):
    return Clip(path=path, prompt=prompt, image=None, frames=frames)


def written(whole, folder, rules=RULES):
    png = folder / "sheet.png"
    write_contact_sheet(whole, rules, png)
    with Image.open(png) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def test_first_middle_and_last_frame_are_shown(tmp_path):
    sheet = written(report(clip_of(write_clip(tmp_path / "a.mp4", 7))), tmp_path)
    shown = [sheet[20:140, left : left + 120] for left in (20, 166, 312)]
    # The last of seven frames is repeated to nine.
    assert numbers(shown) == [0, 4, 6]
    below = sheet[8 + 144 : 8 + 144 + 15]
    assert below.min() < 100


def test_thumbnails_keep_the_shape_of_the_training(tmp_path):
    rules = dataclasses.replace(RULES, width=96, height=64)
    sheet = written(report(clip_of(write_clip(tmp_path / "a.mp4"))), tmp_path, rules)
    assert (sheet[8 : 8 + 96, 8 : 8 + 144] < 30).all()
    assert (sheet[:8] == 255).all()


def test_images_are_shown_once(tmp_path):
    path = write_picture(tmp_path / "a.png", colour="blue")
    sheet = written(report(clip_of(path, frames=1)), tmp_path)
    blue = (sheet == (0, 0, 255)).all(axis=2)
    assert blue.sum() == 144 * 144


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 3), (4, 4), (5, 4)])
def test_clips_stand_in_rows_of_four(count, size, tmp_path):
    path = write_picture(tmp_path / "a.png")
    sheet = written(report(*[clip_of(path, frames=1)] * count), tmp_path)
    assert sheet.shape[1] == size * (3 * 146 + 8) + 8
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == count * 144 * 144


def test_after_many_clips_it_says_how_many_more_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "MAX_CLIPS", 2)
    clips = [clip_of(write_picture(tmp_path / "a.png"), frames=1)] * 3
    bad = Problem(path=tmp_path, found="Bad.", remedy="Mend it.")
    texts = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text", lambda self, place, text, *_, **__: texts.append(text)
    )
    written(report(*clips, left_out=(bad,)), tmp_path)
    assert texts[-1] == "2 clips, 1 more are not shown; 1 left out"


def test_without_clips_there_is_a_sheet_too(tmp_path):
    assert written(report(), tmp_path).shape[2] == 3


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Mn"]), max_size=120),
    st.integers(30, 200),
    st.integers(1, 3),
)
def test_lines_fit_and_nothing_is_lost_but_the_end(text, width, most):
    lines = fitted_lines(text, FONT, width, most)
    assert len(lines) <= most
    assert all(FONT.getlength(line) <= width or len(line) <= 2 for line in lines)
    words = "".join(text.split())
    shown = "".join("".join(lines).split())
    assert shown == words or words.startswith(shown.removesuffix("…"))
    if FONT.getlength(" ".join(text.split())) <= width:
        assert lines == ([" ".join(text.split())] if text.split() else [])


def test_lines_break_between_words():
    lines = fitted_lines("a red circle moves to the right of the picture", FONT, 100, 2)
    assert len(lines) == 2
    assert "a red circle moves".startswith(lines[0])
    assert lines[1].endswith("…")
