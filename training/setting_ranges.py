"""Ranges of settings: what has the right type may still make no sense."""

import math
from operator import attrgetter

from conversion.number_ranges import POSITIVE, Range
from weights.errors import UserError

# numpy takes no negative seed, torch none beyond 64 bits after recipes multiply it.
SEED: Range = (0, 2**32 - 1)


def _expected(low: float, high: float) -> str:
    if high < math.inf:
        return f"A number from {low} to {high} is expected."
    if (low, high) == POSITIVE:
        return "A number above 0 is expected."
    return f"A finite number of at least {low} is expected."


def refuse_setting(name: str, value: object, expected: str) -> UserError:
    """The error that says which setting has which value, and what is expected there."""
    return UserError(f"The setting {name} is {value}.", expected, "Correct the settings file.")


def check_ranges(settings: object, ranges: dict[str, Range], prefix: str = "") -> None:
    """Compare the attributes of `settings`, like `steps` or `focus.share`, with their ranges.

    Both ends of a range belong to it; infinity and NaN never do. Errors name `prefix` too.

    Raises:
        UserError: a number is outside of its range.
    """
    for name, (low, high) in ranges.items():
        value = attrgetter(name)(settings)
        if not (math.isfinite(value) and low <= value <= high):
            raise refuse_setting(f"{prefix}{name}", value, _expected(low, high))
