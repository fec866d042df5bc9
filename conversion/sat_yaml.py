"""SAT's YAML files as one table of keys, each of which knows the file it is from.

As in SAT (`sat/arguments.py`, OmegaConf's merge) a later file's values replace those of an earlier
one, mapping by mapping; a list is a value.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from conversion.number_ranges import POSITIVE, Range
from weights.errors import UserError

Key = tuple[str, ...]

_SECTIONS = {"args", "data", "deepspeed", "model"}
# Aliases can make a small file endless.
_MOST_KEYS = 1_000
_DEEPEST = 30
# YAML 1.1 wants a point in `1e-8`, without which PyYAML gives a string.
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a file; `key` has its place there."""

    key: Key
    value: object
    file: Path

    @property
    def name(self) -> str:
        return dotted(self.key)

    def refused(self, expected: str) -> UserError:
        """The error that says what stands here and what is expected instead."""
        return UserError(
            f"{self.file} has {self.name}: {_short(self.value)}.",
            expected,
            "Correct the file.",
        )

    def number(self, within: Range) -> float:
        """A finite number in a closed range.

        Raises:
            UserError: the value is none.
        """
        low, high = within
        value = as_number(self.value)
        if value is None or not (low <= value <= high and value < math.inf):
            raise self.refused(f"A number {_bounds(within)} is expected.")
        return value

    def whole_number(self, within: Range) -> int:
        """An integer in a closed range.

        Raises:
            UserError: the value is none.
        """
        value = self.number(within)
        if value % 1:
            raise self.refused("A whole number is expected.")
        return int(value)

    def text(self) -> str:
        """A text that is not blank.

        Raises:
            UserError: the value is none.
        """
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.refused("A text is expected.")
        return self.value

    def flag(self) -> bool:
        """True or false.

        Raises:
            UserError: the value is neither.
        """
        if not isinstance(self.value, bool):
            raise self.refused("True or False is expected.")
        return self.value

    def items(self) -> list["Entry"]:
        """The values of a list, with their places.

        Raises:
            UserError: the value is no list.
        """
        if not isinstance(self.value, list):
            raise self.refused("A list is expected.")
        return [
            Entry((*self.key[:-1], f"{self.key[-1]}[{n}]"), item, self.file)
            for n, item in enumerate(self.value)
        ]


class Reading:
    """The entries of the files, and which of them have had a part in something."""

    def __init__(self, files: Sequence[Path]) -> None:
        """
        Raises:
            UserError: a file can't be read, or is not a mapping in YAML.
        """
        self.files = tuple(files)
        self.entries = _merged(files)
        self.mapped: set[Key] = set()
        self.decided: dict[Key, str] = {}
        """Of keys that something else overrules, a sentence about that."""

    def has(self, name: str) -> bool:
        """Whether there is a key `name`, or one below it."""
        key = _key(name)
        return any(other[: len(key)] == key for other in self.entries)

    def peek(self, name: str) -> Entry | None:
        """The entry, if it is there and says anything; it counts as unmapped still."""
        entry = self.entries.get(_key(name))
        return None if entry is None or entry.value is None else entry

    def take(self, *names: str) -> Entry | None:
        """The first entry that is there; it decides over the others."""
        found = [entry for name in names if (entry := self.peek(name))]
        if not found:
            return None
        first = found[0]
        for entry in found:
            if entry.value == first.value:
                self.mapped.add(entry.key)
            else:
                self.set_aside(entry, f"{first.name} decides, as in SAT.")
        return first

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Say in a sentence why `entry` has no part in anything."""
        self.decided[entry.key] = reason


def dotted(key: Key) -> str:
    """A key as people write it."""
    return ".".join(key)


def _key(name: str) -> Key:
    return tuple(name.split("."))


def _merged(files: Sequence[Path]) -> dict[Key, Entry]:
    """The values of all files by their keys; mappings are none, unless they are empty."""
    merged: dict[Key, Entry] = {}
    for file in files:
        for entry in _entries(file, (), _load(file)):
            _replace(merged, entry)
            if len(merged) > _MOST_KEYS:
                raise _unreadable(file, "has too many keys")
    return merged


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice in a mapping, as SAT's does; PyYAML takes the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value if isinstance(name.value, str)]
        for name in set(names):
            if names.count(name) > 1:
                raise yaml.YAMLError(f"the key {name} comes twice in{node.start_mark}")
        return super().construct_mapping(node, deep)


def _load(file: Path) -> dict[object, object]:
    try:
        loader = _Loader(file.read_text(encoding="utf-8"))
        value = loader.get_single_data()
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        # PyYAML lets a bare ValueError out for a date like 2026-02-31.
        raise _unreadable(file, f"can't be read ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict) or not _SECTIONS & value.keys():
        raise _unreadable(file, "has none of SAT's sections")
    return value


def _entries(file: Path, place: Key, value: object) -> Iterator[Entry]:
    if len(place) > _DEEPEST:
        raise _unreadable(file, "is nested too deeply")
    if not isinstance(value, dict) or (place and not value):
        yield Entry(place, value, file)
        return
    for name, item in value.items():
        yield from _entries(file, (*place, str(name)), item)


def _replace(merged: dict[Key, Entry], entry: Entry) -> None:
    key = entry.key
    for length in range(1, len(key)):
        merged.pop(key[:length], None)
    for other in [other for other in merged if other[: len(key)] == key]:
        del merged[other]
    merged[key] = entry


def _short(value: object) -> str:
    shown = Repr()
    shown.maxlevel, shown.maxstring, shown.maxother = 2, 80, 80
    return shown.repr(value)


def _bounds(within: Range) -> str:
    low, high = within
    if within == POSITIVE:
        return "above 0"
    return f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"


def as_number(value: object) -> float | None:
    """A value of YAML as the number that SAT takes it for, None if it is none."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _unreadable(file: Path, found: str) -> UserError:
    return UserError(
        f"{file} {found}.",
        "A YAML file of SAT is expected, with a section args, data, deepspeed or model.",
        "Correct the file, or check the path that was given.",
    )
