"""Numbers that a request brings along, checked against their limits.

Whole numbers may come as floats: Cog hands a JSON 2.0 through as it is.
"""

from weights.errors import UserError


def number(name: str, value: float, least: float, most: float) -> float:
    """`value`, which lies between `least` and `most`.

    Raises:
        UserError: it doesn't, or it is no number.
    """
    if not _is_number(value) or not least <= value <= most:
        raise UserError(
            f"{name} is {_shown(value)}.",
            f"It must lie between {least:g} and {most:g}.",
            "Use a number in this range, or leave it out for the default.",
        )
    return float(value)


def whole_number(name: str, value: float, least: int, most: int | None) -> int:
    """`value`, which is whole and lies between `least` and `most`; None is for no upper limit.

    Raises:
        UserError: it doesn't, or it is no whole number.
    """
    in_range = _is_number(value) and value >= least and (most is None or value <= most)
    if not in_range or value != int(value):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(
            f"{name} is {_shown(value)}.",
            f"It must be a whole number {wanted}.",
            "Use such a number, or leave it out for the default.",
        )
    return int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return str(value)[:40]
