"""Prompt files: text, JSONL, CSV and Parquet become lines of the same kind.

A bad line does not spoil the others: it carries its problem along. What the whole file does wrong,
and an unknown column in any line, is an error before anything starts.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampling.prompt_formats import (
    Row,
    csv_rows,
    decoded,
    file_format,
    jsonl_rows,
    located,
    numbered_lines,
    parquet_rows,
    read_data,
)
from sampling.request_columns import from_cell, from_value, with_own_names
from weights.errors import UserError
from weights.variants import Task

# SAT's sample_video.py wants the image of a line behind it.
_IMAGE_MARK = "@@"
_LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLine:
    """What one line asks for, in the types of the request's fields and not judged any further.

    `number`: of the line in text and JSONL, where blank ones count; of the row in CSV and Parquet,
    from 1, where the CSV's header does not count and blank rows do. `place` says the same in words,
    with the file, for messages.
    `inputs`: by the names of `predict_*.py`, without `image`; what the line leaves blank is not in
    it. `image`: a file that is there, as an absolute path. With a `problem` there is no image, and
    of the inputs at most the prompt.
    """

    number: int
    place: str
    inputs: Mapping[str, Any]
    image: Path | None
    problem: UserError | None


def read_prompt_lines(source: Path, task: Task) -> list[PromptLine]:
    """All lines of a prompt file that are not blank; its suffix says in which format they are.

    Text has a prompt a line, for i2v `prompt@@image.png`, as SAT's sample_video.py wants it. The
    other formats have any field of the request as column, and `text` may stand for `prompt`. Images
    are files: their paths begin in the folder of `source`, else in the working directory.

    Raises:
        UserError: the file can't be read as what it should be or has no prompt, or a column is
            unknown or missing.
    """
    file_kind = file_format(source)
    data = read_data(source)
    if file_kind == "parquet":
        lines = _lines(parquet_rows(data, source, task), source, "row", task, from_value)
    elif file_kind == "csv":
        lines = _lines(
            csv_rows(decoded(data, source), source, task), source, "row", task, from_cell
        )
    elif file_kind == "jsonl":
        rows = jsonl_rows(decoded(data, source), source, task)
        lines = _lines(rows, source, "line", task, from_value)
    else:
        lines = [
            _text_line(text, number, f"{source}, line {number}", source.parent, task)
            for number, text in numbered_lines(decoded(data, source))
        ]
    if not lines:
        raise UserError(f"{source} is empty.", "A prompt is expected.", "Check the file.")
    return lines


def parse_text_line(text: str, number: int, folder: Path, task: Task) -> PromptLine | None:
    """A typed line as one of a text file in `folder`; None where it is blank."""
    line = text.strip()
    return _text_line(line, number, f"Line {number}", folder, task) if line else None


def _text_line(text: str, number: int, place: str, folder: Path, task: Task) -> PromptLine:
    if task == "t2v":
        return _line(Row(number=number, fields={"prompt": text}), place, folder, task, from_value)
    prompt, *images = text.split(_IMAGE_MARK)
    fields = {"prompt": prompt.strip(), "image": "".join(images).strip()}
    problem = None
    if len(images) != 1:
        problem = UserError(
            f"It has {_IMAGE_MARK} {len(images)} times.",
            f"A line like `a cat wakes up{_IMAGE_MARK}cat.png` is expected.",
            "Correct it.",
        )
    row = Row(number=number, fields={} if problem else fields, problem=problem)
    return _line(row, place, folder, task, from_value)


def _lines(
    rows: Iterator[Row], source: Path, unit: str, task: Task, typed: Callable[[str, Any], Any]
) -> list[PromptLine]:
    return [
        _line(row, f"{source}, {unit} {row.number}", source.parent, task, typed) for row in rows
    ]


def _line(
    row: Row, place: str, folder: Path, task: Task, typed: Callable[[str, Any], Any]
) -> PromptLine:
    known: dict[str, Any] = {}
    try:
        if row.problem is not None:
            raise row.problem
        fields = with_own_names(row.fields)
        known["prompt"] = _prompt(fields, typed)
        inputs = {name: typed(name, value) for name, value in fields.items()}
        image = _image(inputs.pop("image", ""), folder) if task == "i2v" else None
    except UserError as error:
        return PromptLine(
            number=row.number, place=place, inputs=known, image=None, problem=located(error, place)
        )
    return PromptLine(number=row.number, place=place, inputs=inputs, image=image, problem=None)


def _prompt(fields: Mapping[str, Any], typed: Callable[[str, Any], Any]) -> str:
    prompt: str = typed("prompt", fields.get("prompt", ""))
    if not prompt.strip():
        raise UserError(
            "There is no prompt.", "Every line needs one.", "Write what the video shows."
        )
    return prompt


def _image(text: str, folder: Path) -> Path:
    name = text.strip()
    if not name:
        raise UserError(
            "There is no image.", "An image-to-video model begins with one.", "Name its file."
        )
    if "://" in name or name.startswith("data:"):
        # Not shown: a URL may hold a secret.
        raise UserError(
            "image is a URL.",
            "A file of this machine is expected.",
            "Download it, and name the file.",
        )
    for base in (folder, Path.cwd()):
        # Not Path.is_file, which raises where a name is too long or has a zero byte.
        if os.path.isfile(base / name):  # noqa: PTH113
            return (base / name).resolve()
    raise UserError(
        f"image {name[:_LONGEST_SHOWN]!r} is no file.",
        "A path is expected that begins beside the prompts or in the working directory.",
        "Correct it.",
    )
