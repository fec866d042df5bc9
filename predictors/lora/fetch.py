"""The file of a LoRA that a request names, in the cache that weights lie in, too."""

import hashlib
from functools import partial
from typing import BinaryIO

from predictors.download import download
from predictors.lora.archive import settle
from predictors.lora.hubs import file_url
from predictors.lora.source import LocalFile, LoraPlaces, parse_source
from predictors.operator_log import tell_operator
from weights.caching.cache import Cache, CacheError
from weights.caching.holds import Use
from weights.caching.use import reserve, use_file
from weights.errors import OperationError
from weights.urls import shown_url

# Rank 256 of all of CogVideoX-5B's attention, in float32, has 1.1 GB.
LIMIT_BYTES = 2_000_000_000
LIMIT_SECONDS = 600.0


def fetch_lora(text: str, cache: Cache, places: LoraPlaces) -> Use:
    """Hold the .safetensors file that `text`, the input `lora`, names; a downloaded one is whole.

    Downloads it if it is not in the cache. A URL is downloaded once: who exchanges the file behind
    it is not noticed before it is evicted. Of a Hugging Face repository without a commit, and of a
    Civitai model without a version, the newest is asked for each time.

    Raises:
        UserError: `text` names nothing that may be used here, or no LoRA in a format that may.
        OperationError: it can't be downloaded or kept.
    """
    source = parse_source(text, places)
    if isinstance(source, LocalFile):
        return Use(source.path)
    url = file_url(source, places)
    limit_bytes = LIMIT_BYTES if cache.limit is None else min(LIMIT_BYTES, cache.limit)

    name = f"lora-{hashlib.sha256(url.encode()).hexdigest()}.safetensors"

    def fill(file: BinaryIO) -> None:
        download(
            url,
            file,
            limit_bytes=limit_bytes,
            limit_seconds=LIMIT_SECONDS,
            reserve=partial(reserve, cache, name),
        )
        settle(file, shown_url(url), limit_bytes)

    try:
        return use_file(cache, name, None, fill)
    except CacheError as error:
        tell_operator(f"{shown_url(url)} was not kept. {error}")
        raise _not_kept(url, "the server's log says why") from None
    except OSError as error:
        raise _not_kept(url, error.strerror) from None


def _not_kept(url: str, reason: str | None) -> OperationError:
    """An error that shows users nothing of this machine."""
    return OperationError(
        f"What {shown_url(url)} gives can't be kept ({reason}).",
        "The cache must be writable and have room.",
        "Free some disk space on the server, or set COGVIDEOX_CACHE to another folder.",
    )
