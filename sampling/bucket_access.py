"""What the clips and the manifest in a bucket are reached by."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sampling.output_store import OutputError
from weights.buckets import bucket_errors, object_key, open_bucket
from weights.errors import UserError

if TYPE_CHECKING:
    from weights.buckets import Store


@functools.cache
def opened(url: str) -> "Store":
    """The bucket of `url`, once in a process: to ask for credentials takes a request."""
    return open_bucket(url, patient=True)


def key_below(url: str, name: str) -> str:
    """The key of `name` under `url`."""
    return f"{object_key(url)}/{name}".removeprefix("/")


@contextmanager
def output_errors(url: str) -> Iterator[None]:
    """Turns what obstore raises into OutputError that holds no secret."""
    try:
        with bucket_errors(url):
            yield
    except UserError as error:
        raise OutputError(
            error.given, error.expected, f"{error.remedy} The same command then goes on."
        ) from None
