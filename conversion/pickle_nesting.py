"""Refuses structures of dicts, lists and tuples that no walk should have to follow."""

from collections.abc import Iterator
from typing import Any

_MAX_DEPTH = 100
_MAX_EXPANDED = 10_000_000


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        return iter(value.values())
    return iter(value) if isinstance(value, list | tuple) else iter(())


def check_nesting(root: Any) -> None:
    """Check that a structure does not contain itself, and is neither deep nor exponentially wide.

    Each object is visited once. `expanded` counts what a walk that follows every reference would
    see: a pair of one pair twice, sixty times over, has 2**60 ends.

    Raises:
        ValueError: it is not so.
    """
    expanded: dict[int, int] = {}
    open_ids: set[int] = {id(root)}
    path = [(root, _children(root), 1)]
    while path:
        value, children, size = path.pop()
        for child in children:
            if id(child) in open_ids:
                raise ValueError("it holds an object that contains itself")
            if isinstance(child, dict | list | tuple) and id(child) not in expanded:
                path += [(value, children, size), (child, _children(child), 1)]
                open_ids.add(id(child))
                break
            size += expanded.get(id(child), 1)
        else:
            expanded[id(value)] = size
            open_ids.discard(id(value))
            if path:
                parent, siblings, total = path.pop()
                path.append((parent, siblings, total + size))
        if len(path) > _MAX_DEPTH or size > _MAX_EXPANDED:
            raise ValueError("it is nested too deeply, or refers to itself again and again")
