"""Numbers of bytes as people write and read them."""

import re
from decimal import Decimal

from weights.errors import UserError

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", re.ASCII)


def parse_size(text: str, what: str) -> int:
    """The bytes that `text` means: `100GB`, `80 GiB`, `1.5TB` or a plain number of bytes.

    `what` names the setting in the message.

    Raises:
        UserError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise UserError(
            f"{what} is {text!r}, which is not a size.",
            "A number is expected with a unit (kB, MB, GB, TB, KiB, MiB, GiB, TiB) or without, "
            "for bytes.",
            "Write it like 100GB or 80GiB.",
        )
    return int(Decimal(match[1]) * _UNITS[match[2].lower()])


def shown_size(count: int) -> str:
    """`count` bytes in the largest fitting decimal unit: `25.1 GB`, `512 bytes`."""
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)):
        # What would be rounded up to 1000.0 belongs to the next unit.
        if count >= 999_950 * 1000 ** (power - 2):
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} bytes" if count != 1 else "1 byte"
