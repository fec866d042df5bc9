"""Reads the small JSON files of weights folders and locks."""

import json
from pathlib import Path
from typing import Any

from weights.errors import UserError

# The largest real one, an index of shards, has some 100 KB. A tarball given by mistake has GBs.
_MAX_BYTES = 64 << 20


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse UTF-8 JSON that must be one object without repeated fields.

    Raises:
        ValueError: it is not.
    """
    try:
        document = json.loads(text.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    return document


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        UserError: there is no such file, or it is not a JSON object, or is far too large for one.
    """
    if not path.is_file():
        raise UserError(
            f"There is no file {path}.", "A JSON file is expected there.", "Check the path."
        )
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes.",
            f"A JSON file of at most {_MAX_BYTES} bytes is expected.",
            "Check that it is the right file.",
        )
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}).",
            "One JSON object is expected.",
            "Check that it is the right file, and get it again if it is damaged.",
        ) from None
