"""Which file names a tarball, a lock and an install may hold."""

import unicodedata

# What makes a folder an install. It and all at the top that begins alike belong to the install and
# not to the weights, so no tarball and no lock may bring them.
MARKER = ".install.json"
_RESERVED = ".install."
# The file system's own, at the top of a fresh ext4 volume.
LOST_AND_FOUND = "lost+found"


def is_reserved(path: str) -> bool:
    """Whether a path in a folder is the install's or the file system's, and not the weights'."""
    return path.startswith(_RESERVED) or path.split("/")[0] == LOST_AND_FOUND


_MAX_COMPONENT_BYTES = 255
# Leaves room for the folder it is in below the 4,096 bytes that Linux allows.
_MAX_BYTES = 1024
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _component_problem(component: str) -> str | None:
    if component in ("", ".", ".."):
        return f"has the part {component!r}"
    if component != component.strip(" "):
        return "has a name that begins or ends with a space"
    if any(unicodedata.category(character) in _UNPRINTABLE for character in component):
        return "has a control character or one that is not UTF-8"
    if len(component.encode()) > _MAX_COMPONENT_BYTES:
        return f"has a name of more than {_MAX_COMPONENT_BYTES} bytes"
    return None


def path_problem(path: str) -> str | None:
    """Why `path` can't be a file of a weights folder, or None if it can.

    A path is relative to the folder, with `/` between its parts. It stays inside the folder, means
    the same file on every system and prints on one line.
    """
    if path.startswith("/"):
        return "is absolute"
    if len(path.encode(errors="replace")) > _MAX_BYTES:
        return f"is longer than {_MAX_BYTES} bytes"
    if "\\" in path:
        return "has a backslash"
    if is_reserved(path):
        return "has a name that is kept for installs or the file system"
    return next(filter(None, map(_component_problem, path.split("/"))), None)
