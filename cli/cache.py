"""Look at the cache of installs and LoRA files, and make room in it.

The cache is $COGVIDEOX_CACHE, else checkpoints/installed of this checkout. With
$COGVIDEOX_CACHE_LIMIT (100GB, 80GiB or bytes) it stays below that size: to make room, what was
least recently used goes first, and never what a live process holds.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from predictors.weights_source import INSTALLED
from weights.byte_sizes import parse_size, shown_size
from weights.caching.cache import Cache, cache_from_environment, read_cache, remove, used_bytes
from weights.caching.entries import Entry
from weights.caching.room import prune
from weights.errors import OperationError

EXAMPLES = """examples:
  cogvideox cache ls
  cogvideox cache rm cogvideox-5b-0123456789ab
  cogvideox cache prune --limit 50GB
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ls|rm|prune")
    ls = actions.add_parser("ls", help="list what is there, and what is in use")
    rm = actions.add_parser("rm", help="remove entries by name")
    rm.add_argument("names", nargs="+", metavar="NAME", help="as `ls` shows it")
    pruning = actions.add_parser(
        "prune", help="remove broken and unfinished installs, and what is over the limit"
    )
    pruning.add_argument(
        "--limit", metavar="SIZE", help="prune to this size (default: $COGVIDEOX_CACHE_LIMIT)"
    )
    for action, perform in ((ls, _ls), (rm, _rm), (pruning, _prune)):
        action.add_argument("--cache", type=Path, metavar="DIR", help="look at this folder instead")
        action.add_argument("--json", action="store_true", help="print one JSON document")
        action.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        action.set_defaults(perform=perform)


def run(options: argparse.Namespace) -> int:
    cache = cache_from_environment(INSTALLED)
    if options.cache:
        cache = dataclasses.replace(cache, root=options.cache.resolve())
    return int(options.perform(cache, options))


def _ls(cache: Cache, options: argparse.Namespace) -> int:
    entries = read_cache(cache)
    if options.json:
        _print_json(cache, entries, entries=[_fields(entry) for entry in entries])
    else:
        for entry in entries:
            print(_line(entry))
        print(_total(cache, entries))
    return 0


def _rm(cache: Cache, options: argparse.Namespace) -> int:
    _say_removed(cache, remove(cache, options.names), read_cache(cache), options)
    return 0


def _prune(cache: Cache, options: argparse.Namespace) -> int:
    if options.limit:
        cache = dataclasses.replace(cache, limit=parse_size(options.limit, "--limit"))
    removed, kept = prune(cache)
    _say_removed(cache, removed, kept, options)
    if cache.limit is not None and used_bytes(kept) > cache.limit:
        held = ", ".join(entry.name for entry in kept if entry.held) or "nothing"
        raise OperationError(
            f"The cache still has {shown_size(used_bytes(kept))}.",
            f"At most {shown_size(cache.limit)} are wanted, and live processes hold {held}.",
            "End these processes and prune again.",
        )
    return 0


def _say_removed(
    cache: Cache, removed: Iterable[Entry], kept: Iterable[Entry], options: argparse.Namespace
) -> None:
    if options.json:
        _print_json(cache, kept, removed=[_fields(entry) for entry in removed])
        return
    for entry in removed:
        print(f"Removed {entry.name} ({entry.kind}, {shown_size(entry.size)})")
    print(_total(cache, kept))


def _fields(entry: Entry) -> dict[str, Any]:
    moment = entry.last_used
    return {
        "name": entry.name,
        "kind": entry.kind,
        "size": entry.size,
        "lastUsed": None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(),
        "held": entry.held,
    }


def _print_json(cache: Cache, kept: Iterable[Entry], **fields: Any) -> None:
    document = {"cache": str(cache.root), "limit": cache.limit, "size": used_bytes(kept)} | fields
    print(json.dumps(document, indent=2))


def _line(entry: Entry) -> str:
    ours = entry.kind != "not ours"
    size = shown_size(entry.size) if ours else ""
    moment = entry.last_used
    used = "" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    return f"{entry.kind:10}  {size:>9}  {used:16}  {'held' if entry.held else '':4}  {entry.name}"


def _total(cache: Cache, entries: Iterable[Entry]) -> str:
    limit = "no limit" if cache.limit is None else f"limit {shown_size(cache.limit)}"
    return f"{shown_size(used_bytes(entries))} in {cache.root}, {limit}"
