"""Scores of many clips against what was asked, and a sheet of them for the eye."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.nano.prompts import Combination
from training.nano.scenes import COLOURS, DIRECTIONS, FRAMES, SHAPES, SIZE, Pixels
from training.nano.tracker import is_right, judge, shape_is_clean, shape_is_right

_ZOOM = 2
_GAP = 8
_SEAM = 2
_FONT_SIZE = 12
_LINE = 15
_LINE_CHARACTERS = 58


@dataclass(frozen=True, slots=True, kw_only=True)
class WordScore:
    """Of the clips that a word was asked of: how many, in what share the word came out right
    (`word`), and in what share everything did (`right`)."""

    clips: int
    word: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Shares of clips that show the colour, shape, direction and all three (`right`) as asked.

    `clean` is the share that is right and whose shape is clean too, by the tracker's stricter rule.
    `mean_iou` is with the asked shape. `dataclasses.asdict` gives what JSON can hold.
    """

    clips: int
    colour: float
    shape: float
    direction: float
    right: float
    clean: float
    mean_iou: float
    words: dict[str, WordScore]


def _score_word(named: np.ndarray, word: np.ndarray, right: np.ndarray) -> WordScore:
    return WordScore(
        clips=int(named.sum()), word=float(word[named].mean()), right=float(right[named].mean())
    )


def score(clips: Iterable[Pixels], asked: Sequence[Combination]) -> Score:
    """Judge clips, (9, 64, 64, 3) uint8 RGB each, by the colour, shape and direction asked.

    Raises:
        ValueError: there are no clips, or not as many as were asked for.
    """
    verdicts = [judge(clip) for clip in clips]
    pairs = list(zip(verdicts, asked, strict=True))
    if not pairs:
        raise ValueError("there are no clips to score")
    colour = np.array([verdict.colour == asked[0] for verdict, asked in pairs])
    shape = np.array([shape_is_right(verdict, asked[1]) for verdict, asked in pairs])
    direction = np.array([verdict.direction == asked[2] for verdict, asked in pairs])
    right = np.array([is_right(verdict, *asked) for verdict, asked in pairs])
    clean = right & [shape_is_clean(verdict, asked[1]) for verdict, asked in pairs]
    words = {}
    for place, (names, word) in enumerate(
        ((COLOURS, colour), (SHAPES, shape), (DIRECTIONS, direction))
    ):
        for name in names:
            named = np.array([each[place] == name for each in asked])
            if named.any():
                words[name] = _score_word(named, word, right)
    return Score(
        clips=len(pairs),
        colour=float(colour.mean()),
        shape=float(shape.mean()),
        direction=float(direction.mean()),
        right=float(right.mean()),
        clean=float(clean.mean()),
        mean_iou=float(np.mean([verdict.ious[asked[1]] for verdict, asked in pairs])),
        words=words,
    )


def contact_sheet(clips: Sequence[Pixels], prompts: Sequence[str], columns: int = 3) -> Image.Image:
    """Show the first, middle and last frame of each clip, with its prompt below, in reading order.

    Raises:
        ValueError: there are not as many prompts as clips.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    captions = [wrap(prompt, _LINE_CHARACTERS) for prompt in prompts]
    lines = max((len(caption) for caption in captions), default=0)
    step = SIZE * _ZOOM + _SEAM
    width, height = 3 * step - _SEAM + _GAP, SIZE * _ZOOM + lines * _LINE + _GAP
    rows = -(-len(clips) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * width + _GAP, row * height + _GAP
        for place, frame in enumerate((0, FRAMES // 2, FRAMES - 1)):
            picture = Image.fromarray(clip[frame].repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1))
            sheet.paste(picture, (left + place * step, top))
        below = (left, top + SIZE * _ZOOM + 1)
        draw.multiline_text(below, "\n".join(caption), "black", font, spacing=2)
    return sheet
