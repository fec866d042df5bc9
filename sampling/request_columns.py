"""The columns of a prompt file: which there are, and what their cells hold.

They are the inputs of `predict_t2v.py` and `predict_i2v.py`. Whether a value is one that the model
can do is judged later, by `predictors.request.validate`; here it gets its type.
"""

import difflib
import re
from collections.abc import Callable, Collection
from typing import Any, Literal

from weights.errors import UserError
from weights.variants import Task

Kind = Literal["text", "whole number", "number", "truth value"]

_KINDS: dict[str, Kind] = {
    "prompt": "text",
    "image": "text",
    "image_fit": "text",
    "negative_prompt": "text",
    "num_frames": "whole number",
    "width": "whole number",
    "height": "whole number",
    "num_inference_steps": "whole number",
    "guidance_scale": "number",
    "dynamic_guidance": "truth value",
    "scheduler": "text",
    "seed": "whole number",
    "fps": "whole number",
    "lora": "text",
    "lora_scale": "number",
    "speed": "text",
    "output_format": "text",
    "output_quality": "whole number",
}
_OF_IMAGES = ("image", "image_fit")
# Trainings have it in their metadata.jsonl: `training.dataset` reads either name there.
_ALIASES = {"text": "prompt"}
# What the API takes; Cog checks it there, before `validate`.
MAX_CHARACTERS = {"prompt": 10_000, "negative_prompt": 10_000, "lora": 2_000}

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_LONGEST_SHOWN = 40


def column_names(task: Task) -> tuple[str, ...]:
    """The columns of prompts for `task`, without other names of theirs."""
    return tuple(name for name in _KINDS if task == "i2v" or name not in _OF_IMAGES)


def check_columns(names: Collection[str], task: Task) -> None:
    """Refuse what is no column: a typo would else be a setting that is silently left out.

    Raises:
        UserError: a name is unknown, or there twice, or of images where `task` has none.
    """
    known = column_names(task)
    for name in names:
        if name in known or name in _ALIASES:
            continue
        if name in _OF_IMAGES:
            raise UserError(
                f"There is {name!r}, and the model makes videos from text alone.",
                f"Known are {', '.join(known)}.",
                "Leave it out, or choose an image-to-video model.",
            )
        raise UserError(
            f"{_shown(name)} is not known.", f"Known are {', '.join(known)}.", _hint(name, known)
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UserError(f"{twice!r} is there twice.", "Once is expected.", "Remove one of them.")


def check_required(names: Collection[str], task: Task) -> None:
    """Check that a table has what every row needs.

    Raises:
        UserError: there is no column of prompts, or none of images where `task` needs them.
    """
    given = {_ALIASES.get(name, name) for name in names}
    for name in ("prompt", "image") if task == "i2v" else ("prompt",):
        if name not in given:
            raise UserError(
                f"There is no column {name!r}.",
                "Every row needs one." if name == "prompt" else "An image-to-video model needs it.",
                "Name the columns in the first row." if name == "prompt" else "Add it.",
            )


def with_own_names(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` without other names of columns.

    Raises:
        UserError: a field is there under two names, with two values.
    """
    own = {name: value for name, value in fields.items() if name not in _ALIASES}
    for alias, name in _ALIASES.items():
        if alias in fields and own.setdefault(name, fields[alias]) != fields[alias]:
            raise UserError(
                f"{name!r} and {alias!r} differ.", "They mean the same.", "Leave one of them out."
            )
    return own


def from_cell(name: str, text: str) -> Any:
    """The value of a CSV's cell, which is not blank, in the type of its column.

    Raises:
        UserError: it is none of that type, or too long.
    """
    kind = _KINDS[name]
    if kind == "text":
        return from_value(name, text if name == "prompt" else text.strip())
    word = text.strip()
    if kind == "truth value":
        return from_value(name, _TRUTH.get(word.lower(), word))
    return from_value(name, float(word) if _NUMBER.fullmatch(word) else word)


def from_value(name: str, value: object) -> Any:
    """A value of JSON or Parquet, which is not null, in the type of its column.

    Whole numbers may come as floats: tables with blanks have them so.

    Raises:
        UserError: it is none of that type, or too long, or text that is not Unicode.
    """
    kind = _KINDS[name]
    if not _IS[kind](value):
        raise UserError(
            f"{name} is {_shown(value)}.",
            f"A {kind} is expected." if kind != "truth value" else "true or false is expected.",
            "Correct it, or leave it blank for the default.",
        )
    if isinstance(value, str):
        _check_text(name, value)
    return int(value) if kind == "whole number" else value  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return value.is_integer() if isinstance(value, float) else _is_number(value)


_IS: dict[Kind, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "whole number": _is_whole,
    "number": _is_number,
    "truth value": lambda value: isinstance(value, bool),
}


def _check_text(name: str, text: str) -> None:
    most = MAX_CHARACTERS.get(name)
    if most is not None and len(text) > most:
        raise UserError(
            f"{name} has {len(text)} characters.", f"It may have {most}.", "Make it shorter."
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(
            f"{name} has half a character, a lone surrogate.",
            "Unicode is expected, in UTF-8.",
            "Correct it.",
        )


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"


def _hint(name: str, known: Collection[str]) -> str:
    if ";" in name or "\t" in name:
        return "Separate the columns with commas."
    nearest = difflib.get_close_matches(name.strip().lower(), [*known, *_ALIASES], n=1)
    return f"Should it be {nearest[0]}?" if nearest else "Rename it or leave it out."
