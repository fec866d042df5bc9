"""Options of `cogvideox sample` that SAT's files say, unless the command line does."""

from collections.abc import Callable, Collection
from typing import Any

from conversion.sat_yaml import Entry, Reading, as_number
from weights.errors import UserError

_POSITIONAL = {"prompts": "PROMPTS", "out": "OUT"}


class Options:
    """The options found so far, by their names, and what of the files has no part in them."""

    def __init__(self, reading: Reading, given: Collection[str]) -> None:
        """`given` are the options of the command line, which go before the files."""
        self.reading = reading
        self.values: dict[str, Any] = {}
        self._given = given

    def is_given(self, *options: str) -> bool:
        """Whether the command line has said all of `options`."""
        return all(option in self._given for option in options)

    def overrule(self, option: str, *names: str) -> None:
        """Set the keys `names` aside: `option` of the command line decides."""
        shown = _POSITIONAL.get(option, f"--{option.replace('_', '-')}")
        for name in names:
            if entry := self.reading.peek(name):
                self.reading.set_aside(entry, f"{shown} was given, and decides.")

    def read(self, option: str, name: str, read: Callable[[Entry], Any]) -> None:
        """Take the value of the key `name` for `option`, where the file has one.

        Raises:
            UserError: it is not what is expected; but what is overruled is not looked at.
        """
        if self.is_given(option):
            self.overrule(option, name)
        elif entry := self.reading.take(name):
            self.values[option] = read(entry)


def last_part(entry: Entry) -> str:
    """The class that a `target` of SAT names, without its module.

    Raises:
        UserError: the value is no text.
    """
    return entry.text().rpartition(".")[2]


def require_value(entry: Entry, expected: str | bool | float) -> None:
    """Nothing, if the value is the one that videos can be sampled with here.

    Of a text the last part counts, as of the name of a class.

    Raises:
        UserError: it is another one.
    """
    match expected:
        case str():
            same = last_part(entry) == expected
        case bool():
            same = entry.value is expected
        case _:
            same = as_number(entry.value) == expected
    if not same:
        raise entry.refused(f"{expected} is expected: nothing else can be sampled here.")


def missing(reading: Reading, name: str) -> UserError:
    """The error that says that the files lack a key."""
    files = " and ".join(map(str, reading.files))
    return UserError(
        f"There is no {name} in {files}.",
        "SAT's model.yaml is expected, as its sat/configs has one for each model.",
        "Give the yaml the model was trained with as --sat-config.",
    )
