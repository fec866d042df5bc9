"""What a SAT configuration says that has no counterpart here, and what to do instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from conversion.sat_yaml import Entry, Key, Reading, dotted

_LONGEST = 60
_UNSET = "Nothing is set there."


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A key without a counterpart: its value as YAML, perhaps cut short, and what to do instead."""

    key: str
    value: str
    instead: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value}\n    {self.instead}"


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why keys have no counterpart, by their beginnings: the longest that fits counts.

    `unknown` is said of all others.
    """

    by_beginning: Mapping[str, str]
    unknown: str

    def beginning(self, key: Key) -> Key:
        """The longest beginning of `key` that has a reason, () if none has."""
        lengths = range(len(key), 0, -1)
        return next((key[:n] for n in lengths if dotted(key[:n]) in self.by_beginning), ())

    def of(self, key: Key) -> str:
        """The reason for `key`."""
        return self.by_beginning.get(dotted(self.beginning(key)), self.unknown)


def unmapped_keys(reading: Reading, reasons: Reasons) -> tuple[Unmapped, ...]:
    """What of the entries has no part in anything, in their order.

    Keys that have one reason stand together.
    """
    left: dict[Key, dict[Key, Entry]] = {}
    for key, entry in reading.entries.items():
        if key not in reading.mapped:
            left.setdefault(_group(key, reading, reasons), {})[key] = entry
    return tuple(
        Unmapped(
            dotted(group),
            _shown(_value(group, members)),
            _reason(group, members, reading, reasons),
        )
        for group, members in left.items()
    )


def _group(key: Key, reading: Reading, reasons: Reasons) -> Key:
    """What `key` is shown under: the beginning that has a reason, but no whole section."""
    if key in reading.decided:
        return key
    found = reasons.beginning(key)
    return found if len(found) > 1 else key[:2]


def _reason(group: Key, members: Mapping[Key, Entry], reading: Reading, reasons: Reasons) -> str:
    if all(entry.value in (None, {}) for entry in members.values()):
        return _UNSET
    return reading.decided.get(group) or reasons.of(group)


def _value(group: Key, members: Mapping[Key, Entry]) -> object:
    if group in members:
        return members[group].value
    tree: dict[str, Any] = {}
    for key, entry in members.items():
        branch = tree
        for name in key[len(group) : -1]:
            branch = branch.setdefault(name, {})
        branch[key[-1]] = entry.value
    return tree


def _shown(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    text = text.removesuffix("\n...\n").strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
