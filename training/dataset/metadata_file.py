"""The layout of a folder with `metadata.jsonl`, as Hugging Face's tools and others write it."""

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from training.dataset.clip import Problem, UnusableClipError, is_image, is_video
from training.dataset.listing import ListedClip, Listing, kind_problem
from training.dataset.visible_files import is_hidden, visible_below
from weights.errors import UserError
from weights.json_file import parse_object

METADATA = "metadata.jsonl"

# Half a million clips. What is larger is another file by mistake.
_MAX_BYTES = 256 << 20
_CAPTION_FIELDS = ("text", "prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataLine:
    """What a line of metadata.jsonl says; paths are relative to its folder and inside of it."""

    file_name: PurePosixPath
    prompt: str
    image: PurePosixPath | None


def parse_line(line: bytes) -> MetadataLine:
    """Parse one line; fields that are not ours are ignored.

    Raises:
        ValueError: it is not a JSON object, or its fields are not what they should be.
    """
    try:
        fields = parse_object(line)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"it is not a JSON object: {error}") from None
    file_name = _text(fields, "file_name")
    if file_name is None:
        raise ValueError("it has no file_name")
    captions = {text for name in _CAPTION_FIELDS if (text := _text(fields, name)) is not None}
    if len(captions) != 1:
        raise ValueError("it has two captions" if captions else "it has neither text nor prompt")
    image = _text(fields, "image")
    return MetadataLine(
        file_name=_inside("file_name", file_name),
        prompt=captions.pop(),
        image=None if image is None else _inside("image", image),
    )


def list_metadata(root: Path, *, images: bool, first_frames: bool) -> Listing:
    """The clips that `root`/metadata.jsonl names.

    `images`: pictures were asked for; `first_frames`: each line's `image` was.

    Raises:
        UserError: the file is too large.
        OSError: it or a folder can't be read.
    """
    clips: list[ListedClip] = []
    left_out: list[Problem] = []
    numbers: dict[PurePosixPath, int] = {}
    pictures: set[Path] = set()
    for number, text in _lines(root / METADATA):
        path = root / METADATA
        try:
            line = _parsed(number, text)
            path = root / line.file_name
            first = numbers.setdefault(line.file_name, number)
            image = None if line.image is None else root / line.image
            pictures |= {image} if image else set()
            _check_new(number, first)
            _check_present(number, path)
            if problem := kind_problem(path, images=images):
                left_out.append(problem)
                continue
            given = image if first_frames else None
            clips.append(ListedClip(path=path, prompt=line.prompt, image=given))
        except UnusableClipError as error:
            left_out.append(error.problem(path))
    listed = {root / name for name in numbers} | pictures
    left_out += _unlisted(root, listed, images=images)
    return Listing(clips=tuple(clips), left_out=tuple(left_out))


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {name} is not a text")
    if value is None:
        return None
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"its {name} has half a character, a lone surrogate")
    return value.strip()


def _inside(name: str, text: str) -> PurePosixPath:
    """A path that stays in the folder; where its parts are links, the user made them."""
    path = PurePosixPath(text)
    if "\\" in text:
        raise ValueError(f"its {name} {text!r} has a backslash; paths have /")
    if not path.parts or "\0" in text:
        raise ValueError(f"its {name} {text!r} is not a path")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"its {name} {text!r} leaves the folder")
    if is_hidden(path):
        raise ValueError(f"its {name} {text!r} is a hidden file")
    return path


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, and their numbers from 1 on."""
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes.",
            f"A line of JSON for each clip is expected, {_MAX_BYTES} bytes at most.",
            "Check that it is the right file.",
        )
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _parsed(number: int, text: bytes) -> MetadataLine:
    try:
        return parse_line(text)
    except ValueError as error:
        raise UnusableClipError(
            f"Line {number} can't be used: {error}.",
            'Write it like {"file_name": "1.mp4", "text": "a caption"}, or remove it.',
        ) from None


def _check_new(number: int, first: int) -> None:
    if first != number:
        raise UnusableClipError(
            f"Line {number} of {METADATA} names it, as line {first} did before.",
            "Remove one of the two lines.",
        )


def _check_present(number: int, path: Path) -> None:
    # Not Path.exists, which raises where a name is too long.
    if not os.path.exists(path):  # noqa: PTH110
        raise UnusableClipError(
            f"Line {number} of {METADATA} names it, and there is no such file.",
            "Put the file there, or remove the line.",
        )


def _unlisted(root: Path, listed: set[Path], *, images: bool) -> list[Problem]:
    return [
        Problem(
            path=path,
            found=f"No line of {METADATA} names it.",
            remedy="Add a line with its caption, or remove it.",
        )
        for path in visible_below(root)
        if (is_video(path) or (images and is_image(path))) and path not in listed
    ]
