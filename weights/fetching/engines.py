"""Which engine fetches a lock: the one rule, and the reason in words for the log."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from weights.errors import UserError
from weights.lock import Lock, resolve_url

Engine = Literal["builtin", "pget"]
VARIABLE = "COGVIDEOX_FETCH_ENGINE"


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and why it was chosen."""

    engine: Literal["builtin", "pget", "local"]
    reason: str


def engine_named(name: str) -> Engine | None:
    """The engine that a user names; None for `auto`.

    Raises:
        UserError: there is none of that name.
    """
    for engine in get_args(Engine):
        if name == engine:
            return engine  # type: ignore[no-any-return]
    if name == "auto":
        return None
    raise UserError(
        f"There is no fetch engine {name!r}.",
        f"It is auto, {' or '.join(get_args(Engine))}.",
        f"Correct --engine or {VARIABLE}.",
    )


def choose_engine(
    lock: Lock, asked: Engine | None = None, environment: Mapping[str, str] = os.environ
) -> Choice:
    """Choose by the first that fits.

    1. A file:// url is copied from.
    2. pget can only take a tarball whose URL is no secret, since other users of the machine see
       a command's arguments: everything else is for builtin.
    3. What was asked for: the argument, else COGVIDEOX_FETCH_ENGINE.
    4. pget where it is on PATH and a PGET_CACHE_* variable points it to a cache nearby, as on
       Replicate.
    5. builtin: it verifies as it goes, goes on where it stopped and needs no space for a tarball.

    Raises:
        UserError: the lock names no place, or the variable no engine.
    """
    url = urlsplit(resolve_url(lock))
    if url.scheme == "file":
        return Choice("local", "the weights are on this machine")
    asked = asked or engine_named(environment.get(VARIABLE) or "auto")
    problem = _pget_problem(lock)
    if problem:
        return Choice("builtin", problem)
    if asked:
        return Choice(asked, "as asked")
    cache = any(name.startswith("PGET_CACHE_") for name in environment)
    if cache and shutil.which("pget"):
        return Choice("pget", "it is on PATH, and PGET_CACHE_* names a cache nearby")
    return Choice("builtin", "the default")


def _pget_problem(lock: Lock) -> str | None:
    """Why pget can't be used for this lock, whatever was asked."""
    url = urlsplit(resolve_url(lock))
    if lock.split:
        return "the weights are single files"
    if url.scheme not in ("http", "https"):
        return "they are in a bucket"
    if url.query or url.username or url.password:
        return "the url holds what others must not see"
    return None
