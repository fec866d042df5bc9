"""manifest.jsonl in a bucket, where nothing can be added to an object.

A line comes as an object of its own, manifest/LINE-TIME-TOKEN.json, and now and then all of these
come into manifest.jsonl and are removed. Any process may do that at any moment, or be killed at it:
the new manifest.jsonl only comes where the one is that it was made from, and a line that is in both
places says the same twice.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from sampling.bucket_access import key_below, opened, output_errors
from sampling.output_store import MANIFEST, OutputError
from weights.buckets import is_about_bucket

if TYPE_CHECKING:
    from obstore import GetResult, PutMode, UpdateVersion

_FOLDER = "manifest"
_COMPACT_EVERY = 500
# Each time another process was faster, and has then done all or most of it.
_ATTEMPTS = 10
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Compacted:
    """manifest.jsonl as it was found; `mode`: the condition that it still is so."""

    data: bytes
    mode: "PutMode"


class BucketLog:
    """A RecordLog below `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._manifest = key_below(url, MANIFEST)
        self._added = 0

    def lines(self) -> Iterator[tuple[str, bytes]]:
        compacted, singles = self._all()
        for number, line in enumerate(compacted.data.split(b"\n"), 1):
            if line.strip():
                yield f"{self._url}/{MANIFEST}, line {number}", line
        for key, line in singles.items():
            yield f"{self._url}/{_FOLDER}/{_name(key)}", line

    def append(self, number: int, text: bytes) -> None:
        name = f"{_FOLDER}/{number:06}-{time.time_ns():020}-{token_hex(4)}.json"
        with output_errors(self._url):
            opened(self._url).put(key_below(self._url, name), text)
        self._added += 1
        if self._added % _COMPACT_EVERY == 0:
            # The record is there, and the next time may do: no reason to end a run.
            with suppress(OutputError):
                self._compact()

    def close(self) -> None:
        """Bring all lines into manifest.jsonl."""
        self._compact()

    def _compact(self) -> None:
        with output_errors(self._url):
            for _ in range(_ATTEMPTS):
                compacted, singles = self._all()
                if not singles or self._replaced(compacted, singles):
                    self._remove(list(singles))
                    return

    def _all(self) -> tuple[_Compacted, dict[str, bytes]]:
        """manifest.jsonl, and by key the lines that came after it, in their order."""
        with output_errors(self._url):
            compacted = self._compacted()
            for _ in range(_ATTEMPTS):
                singles = self._singles()
                before, compacted = compacted, self._compacted()
                # Else lines may have come into manifest.jsonl, and gone, between the two looks.
                if compacted.mode == before.mode:
                    break
        return compacted, singles

    def _compacted(self) -> _Compacted:
        found = self._get(self._manifest)
        if found is None:
            return _Compacted(b"", "create")
        meta = found.meta
        # Not every cloud has both; what is None can't be a condition.
        mode: UpdateVersion = {}
        if meta["e_tag"] is not None:
            mode["e_tag"] = meta["e_tag"]
        if meta["version"] is not None:
            mode["version"] = meta["version"]
        return _Compacted(bytes(found.bytes()), mode)

    def _singles(self) -> dict[str, bytes]:
        listed = opened(self._url).list(key_below(self._url, _FOLDER))
        found = [(entry["last_modified"], entry["path"]) for chunk in listed for entry in chunk]
        # The time is the server's, in seconds; the names go on from there.
        keys = [key for _, key in sorted(found)]
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            results = list(pool.map(self._get, keys))
        finally:
            pool.shutdown(cancel_futures=True)
        return {
            key: bytes(result.bytes())
            for key, result in zip(keys, results, strict=True)
            if result is not None
        }

    def _get(self, key: str) -> "GetResult | None":
        try:
            return opened(self._url).get(key)
        except FileNotFoundError as error:
            if is_about_bucket(error):
                raise
            return None

    def _replaced(self, compacted: _Compacted, singles: dict[str, bytes]) -> bool:
        """Whether manifest.jsonl now has these lines too: not where it has changed meanwhile."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        lines = [line.strip() for line in (*compacted.data.split(b"\n"), *singles.values())]
        data = b"".join(line + b"\n" for line in lines if line)
        try:
            opened(self._url).put(self._manifest, data, mode=compacted.mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _remove(self, keys: list[str]) -> None:
        """Remove `keys`, which are in manifest.jsonl now; of each prompt line the last one last.

        Should it end in the middle, what stays comes after manifest.jsonl, and must be what holds.
        """
        last = {_name(key).partition("-")[0]: key for key in keys}
        for batch in ([key for key in keys if key not in last.values()], list(last.values())):
            # Another process may have removed them, which some clouds mind.
            with suppress(FileNotFoundError):
                if batch:
                    opened(self._url).delete(batch)


def _name(key: str) -> str:
    return key.rpartition("/")[2]
