"""A picture of a dataset as training sees it, for the eye."""

from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from training.dataset.clip import Clip
from training.dataset.clip_frames import read_frames
from training.dataset.clip_rules import ClipRules
from training.dataset.report import DatasetReport
from weights.atomic import replacing

MAX_CLIPS = 200

_COLUMNS = 4
_LONG_SIDE = 144
_GAP = 8
_SEAM = 2
_FONT_SIZE = 12
_LINE = 15
_LINES = 3
_FRAMES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_contact_sheet(report: DatasetReport, rules: ClipRules, png: Path) -> None:
    """Write the first, middle and last frame of each used clip, with its name and prompt below.

    They are cropped, resampled and filled up as for training; an image is there once. After
    MAX_CLIPS clips it says how many more there are.

    Raises:
        UserError: a clip is not as it was when the dataset was checked.
        OSError: `png` can't be written.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    clips = report.used[:MAX_CLIPS]
    thumb = _thumb_size(rules)
    step = (_FRAMES * (thumb[0] + _SEAM) + _GAP, thumb[1] + _LINES * _LINE + _GAP)
    columns = max(1, min(_COLUMNS, len(clips)))
    rows = -(-len(clips) // columns)
    sheet = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP + _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    for index, clip in enumerate(clips):
        row, column = divmod(index, columns)
        left, top = column * step[0] + _GAP, row * step[1] + _GAP
        for place, picture in enumerate(_thumbs(clip, rules, thumb)):
            sheet.paste(picture, (left + place * (thumb[0] + _SEAM), top))
        lines = fitted_lines(f"{clip.path.name}: {clip.prompt}", font, step[0] - _GAP, _LINES)
        draw.multiline_text((left, top + thumb[1]), "\n".join(lines), "black", font, spacing=2)
    draw.text((_GAP, rows * step[1] + _GAP), _footer(report), "black", font)
    with replacing(png) as file:
        sheet.save(file, "PNG")


def fitted_lines(text: str, font: Font, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` pixels, broken between words where it can be.

    What doesn't fit is cut off, and an ellipsis says so.
    """
    rest = " ".join(text.split())
    lines: list[str] = []
    while rest and len(lines) < most:
        if font.getlength(rest) <= width:
            return [*lines, rest]
        last = len(lines) == most - 1
        room = width - (font.getlength("…") if last else 0)
        end = max(1, _fitting(rest, font, room))
        if last:
            return [*lines, f"{rest[:end].rstrip()}…"]
        space = rest.rfind(" ", 1, end + 1)
        end = space if space > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _fitting(text: str, font: Font, room: float) -> int:
    """How many characters of `text` fit."""
    ends = range(1, len(text) + 1)
    return next((end - 1 for end in ends if font.getlength(text[:end]) > room), len(text))


def _thumb_size(rules: ClipRules) -> tuple[int, int]:
    scale = _LONG_SIDE / max(rules.width, rules.height)
    return max(1, round(rules.width * scale)), max(1, round(rules.height * scale))


def _thumbs(clip: Clip, rules: ClipRules, size: tuple[int, int]) -> list[Image.Image]:
    indices = (0, clip.frames // 2, clip.frames - 1)
    frames = read_frames(clip, rules, indices)
    pictures = (Image.fromarray(frame) for frame in islice(frames, _FRAMES))
    return [picture.resize(size, Image.Resampling.BICUBIC) for picture in pictures]


def _footer(report: DatasetReport) -> str:
    shown = min(len(report.used), MAX_CLIPS)
    more = len(report.used) - shown
    text = f"{shown} clips" if shown != 1 else "1 clip"
    text += f", {more} more are not shown" if more else ""
    return text + (f"; {len(report.left_out)} left out" if report.left_out else "")
