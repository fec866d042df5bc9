"""What lies at the paths that SAT's files name."""

from contextlib import suppress
from pathlib import Path

from conversion.sat_yaml import Entry
from weights.errors import UserError


def named_path(entry: Entry) -> Path | None:
    """What is at the path that a file names, None if nothing is.

    SAT looks in its working directory, `sat/`; so where the command runs is tried first, and then
    the folder of the yaml and the one above, as of `sat/configs/`.

    Raises:
        UserError: the value is no text.
    """
    text = Path(entry.text())
    for folder in (Path(), entry.file.absolute().parent, entry.file.absolute().parent.parent):
        # A path may be too long, or hold what no path does.
        with suppress(OSError, ValueError):
            if (folder / text).exists():
                return folder / text
    return None


def not_there(entry: Entry, expected: str, instead: str) -> UserError:
    """The error that says what was looked for where."""
    given = entry.refused(expected).given
    return UserError(
        f"{given} There is no such thing where the command runs, nor beside the yaml.",
        expected,
        f"Correct the path, or give another {instead}.",
    )
